use super::*;
use crate::cli::GlobalArgs;

fn quiet() -> GlobalArgs {
    GlobalArgs { log_format: None, log_filter: None }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn message(result: Result<Config>) -> String {
    let error = result.unwrap_err();
    assert_eq!(crate::failure::exit_code(&error), crate::failure::EXIT_USAGE);
    crate::failure::one_line(&error)
}

#[test]
fn flags_override_environment_override_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidewell.toml");
    std::fs::write(
        &path,
        "data_dir = \"/file\"\ningest_addr = \"127.0.0.1:1\"\nquery_addr = \"127.0.0.1:2\"\n[engine]\nmemtable = \"8MiB\"\nshards = 3\n",
    )
    .unwrap();
    let args = ServeArgs {
        config: Some(path),
        ingest_addr: Some("127.0.0.1:11".into()),
        set: vec!["engine.seal_age=5s".into()],
        ..ServeArgs::default()
    };
    let environment = variables(&[
        ("TIDEWELL_INGEST_ADDR", "127.0.0.1:12"),
        ("TIDEWELL_QUERY_ADDR", "127.0.0.1:22"),
        ("TIDEWELL_ENGINE_SHARDS", "4"),
        ("TIDEWELL_ENGINE_COMPACTION", "false"),
        ("TIDEWELL_LOG", "debug"),
    ]);
    let config = load(&args, &quiet(), environment).unwrap();
    assert_eq!(config.data_dir.as_deref(), Some(Path::new("/file")));
    assert_eq!((config.ingest_addr.port(), config.query_addr.port(), config.admin_addr.port()), (11, 22, 4435));
    assert_eq!((config.engine.shards.0, config.engine.memtable), (4, Size(8 << 20)));
    assert_eq!(config.engine.seal_age.0.as_secs(), 5);
    assert!(!config.engine.compaction.0);
    assert_eq!(config.log.filter, "debug");
}

#[test]
fn a_printed_configuration_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("printed.toml");
    let args = ServeArgs { data_dir: Some("/data".into()), tls_dir: Some("/tls".into()), ..ServeArgs::default() };
    let config = load(&args, &quiet(), []).unwrap();
    std::fs::write(&path, config.to_toml()).unwrap();
    let again = load(&ServeArgs { config: Some(path), ..ServeArgs::default() }, &quiet(), []).unwrap();
    assert_eq!(again, config);
}

#[test]
fn the_example_file_shows_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tidewell.example.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for key in all_keys() {
        let name = key.rsplit('.').next().unwrap();
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} = "))), "{key} is missing");
    }
    let example = load(&ServeArgs { config: Some(path), ..ServeArgs::default() }, &quiet(), []).unwrap();
    let defaults = Config::default();
    assert_eq!(
        (example.memory_limit, example.engine, example.ingest, example.query, example.log),
        (defaults.memory_limit, defaults.engine, defaults.ingest, defaults.query, defaults.log)
    );
}

#[test]
fn unknown_keys_are_named_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    std::fs::write(&path, "data_dir = \"/d\"\n\n[engine]\nmemtabel = \"8MiB\"\n").unwrap();
    let text = message(load(&ServeArgs { config: Some(path.clone()), ..ServeArgs::default() }, &quiet(), []));
    assert!(text.contains("t.toml:4") && text.contains("memtabel"), "{text}");
    std::fs::write(&path, "[engine]\nmemtable = \"8\"\n").unwrap();
    let text = message(load(&ServeArgs { config: Some(path), ..ServeArgs::default() }, &quiet(), []));
    assert!(text.contains("t.toml:2") && text.contains("unit"), "{text}");
}

#[test]
fn a_bad_value_names_its_flag_or_variable() {
    let args = ServeArgs { ingest_addr: Some("nonsense".into()), ..ServeArgs::default() };
    let text = message(load(&args, &quiet(), []));
    assert!(text.contains("--ingest-addr") && text.contains("nonsense"), "{text}");
    let text = message(load(&ServeArgs::default(), &quiet(), variables(&[("TIDEWELL_ENGINE_MEMTABLE", "12")])));
    assert!(text.contains("TIDEWELL_ENGINE_MEMTABLE") && text.contains("unit"), "{text}");
    let args = ServeArgs { set: vec!["engine.nope=1".into()], ..ServeArgs::default() };
    let text = message(load(&args, &quiet(), []));
    assert!(text.contains("nope"), "{text}");
    let args = ServeArgs { set: vec!["engine.memtable=1KiB".into()], ..ServeArgs::default() };
    let text = message(load(&args, &quiet(), []));
    assert!(text.contains("engine.memtable") && text.contains("1MiB"), "{text}");
}

#[test]
fn the_memory_limit_is_a_flag_a_variable_and_a_key() {
    let config = load(&ServeArgs::default(), &quiet(), variables(&[("TIDEWELL_MEMORY_LIMIT", "1GiB")])).unwrap();
    assert_eq!(config.memory_bytes(), 1 << 30);
    let args = ServeArgs { memory_limit: Some("256MiB".into()), ..ServeArgs::default() };
    let config = load(&args, &quiet(), variables(&[("TIDEWELL_MEMORY_LIMIT", "1GiB")])).unwrap();
    assert_eq!(config.memory_bytes(), 256 << 20);
    assert!(load(&ServeArgs::default(), &quiet(), []).unwrap().memory_bytes() >= MEMORY_LIMIT_MIN);
    let args = ServeArgs { memory_limit: Some("1MiB".into()), ..ServeArgs::default() };
    let text = message(load(&args, &quiet(), []));
    assert!(text.contains("memory_limit") && text.contains("128MiB"), "{text}");
}

#[test]
fn misspelt_variables_are_found() {
    let names = ["TIDEWELL_DATADIR", "TIDEWELL_DATA_DIR", "TIDEWELL_NODE", "PATH"].map(str::to_owned);
    assert_eq!(unknown_variables(names), ["TIDEWELL_DATADIR"]);
}
