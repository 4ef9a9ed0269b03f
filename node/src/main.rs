//! The program `labmesh`: see [`labmesh::cli`].

fn main() -> std::process::ExitCode {
    labmesh::cli::main()
}
