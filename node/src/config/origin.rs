//! Which settings hold here, and where each was said: `labmesh config --json`.
//!
//! Rule: a value is shown as it was written there; what nobody wrote, as the node would take it. Not here: which place
//! wins over which ([`Settings::over`]).

use std::path::{Path, PathBuf};

use clap::{Args as _, FromArgMatches as _};
use serde_json::{Value, json};

use super::{Config, DEFAULTS, Settings, file_in_use};

/// Every key with its value and where that comes from: `default`, `file`, `environment` or `flag`. It is what
/// `labmesh run` with this file and socket and no other flag would run with.
///
/// # Errors
/// As [`Config::resolve`], and if a variable holds what makes no sense.
pub fn settings_in_force(file: Option<&Path>, socket: Option<PathBuf>) -> anyhow::Result<Value> {
    let command = Settings::augment_args(clap::Command::new("labmesh").no_binary_name(true));
    // Nothing is typed here, so all that it finds is in the environment.
    let said = command.try_get_matches_from(std::iter::empty::<&str>())?;
    let environment = |key: &str| -> Option<Vec<String>> {
        let values = said.try_get_raw(key).ok().flatten()?;
        Some(values.map(|value| value.to_string_lossy().into_owned()).collect())
    };
    let settings = Settings { socket: socket.clone(), ..Settings::from_arg_matches(&said)? };
    let config = Config::resolve(file, settings)?;
    let written = file_in_use(file).map(std::fs::read_to_string).transpose()?.unwrap_or_default().parse()?;
    let mut all = merged(environment, &written, &config);
    if let Some(socket) = socket {
        let from_variable = std::env::var_os("LABMESH_SOCKET").is_some_and(|path| path == *socket);
        all["socket"] = json!({ "value": socket, "from": if from_variable { "environment" } else { "flag" } });
    }
    Ok(all)
}

fn merged(environment: impl Fn(&str) -> Option<Vec<String>>, file: &toml::Table, config: &Config) -> Value {
    let placed = ["bind", "interface"].iter().any(|key| environment(key).is_some());
    let one = |(key, example, is_default): &(&str, &str, bool)| {
        let example = parse(example);
        let in_file = file.get(*key).filter(|_| !placed || !["bind", "interface"].contains(key));
        let (value, from) = match (environment(key), in_file) {
            (Some(texts), _) => (typed(&texts, &example), "environment"),
            (None, Some(value)) => (json!(value), "file"),
            (None, None) if *is_default => (json!(example), "default"),
            (None, None) => (derived(key, config), "default"),
        };
        ((*key).to_owned(), json!({ "value": value, "from": from }))
    };
    Value::Object(DEFAULTS.iter().map(one).collect())
}

/// What a key that has no fixed default comes to on this machine; `null` if it is simply not set.
fn derived(key: &str, config: &Config) -> Value {
    match key {
        "cache" => json!(config.cache),
        "state" => json!(config.state),
        "name" => json!(config.name),
        "socket" => json!(config.socket.path),
        "timeout_downloaders_interval" => json!(humantime::format_duration(config.tracker.expiry).to_string()),
        _ => Value::Null,
    }
}

fn parse(value: &str) -> toml::Value {
    let table: toml::Table = format!("x = {value}").parse().expect("the printed default parses");
    table["x"].clone()
}

/// The texts of a variable in the type that the file would have for them.
fn typed(texts: &[String], example: &toml::Value) -> Value {
    let text = texts.concat();
    match example {
        toml::Value::Array(_) => json!(texts),
        toml::Value::Integer(_) => text.parse::<i64>().map_or_else(|_| json!(text), Value::from),
        toml::Value::Boolean(_) => text.parse::<bool>().map_or_else(|_| json!(text), Value::from),
        _ => json!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_says_where_it_comes_from() {
        let file = "weight = 40\nmesh = \"lab\"\ninterface = \"eth7\"\nlimits = [{ upload = 0 }]\nhttp_port = 7000";
        let environment = |key: &str| match key {
            "weight" => Some(vec!["10".to_owned()]),
            "join" => Some(vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]),
            "bind" => Some(vec!["127.0.0.2".to_owned()]),
            "upload_limit" => Some(vec!["2MiB".to_owned()]),
            "prefer" => Some(vec!["true".to_owned()]),
            _ => None,
        };
        let config = Config::check(Settings::defaults()).unwrap();
        let all = merged(environment, &file.parse().unwrap(), &config);
        for (key, value, from) in [
            ("weight", json!(10), "environment"),
            ("join", json!(["10.0.0.1", "10.0.0.2"]), "environment"),
            ("upload_limit", json!("2MiB"), "environment"),
            ("prefer", json!(true), "environment"),
            ("mesh", json!("lab"), "file"),
            ("limits", json!([{ "upload": 0 }]), "file"),
            ("http_port", json!(7000), "file"),
            ("peer_port", json!(6881), "default"),
            ("bind", json!("127.0.0.2"), "environment"),
            // The address replaces it.
            ("interface", Value::Null, "default"),
            ("site", Value::Null, "default"),
            ("cache", json!(config.cache), "default"),
            ("timeout_downloaders_interval", json!("1m 35s"), "default"),
        ] {
            assert_eq!(all[key], json!({ "value": value, "from": from }), "{key}");
        }
        assert_eq!(all.as_object().unwrap().len(), DEFAULTS.len());
    }
}
