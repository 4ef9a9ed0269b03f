//! The tests live in `it/`; this library is empty so that the package has a target to name.
