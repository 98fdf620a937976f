//! Every configuration under `examples/` reads without a word of complaint and means what it says.
#![cfg(feature = "compiler")]

use std::path::Path;

use athanor_frontend::config::{self, Config};

fn read(name: &str) -> Config {
    let loaded = config::load(Path::new(name), &[]);
    let said: Vec<_> = loaded.diagnostics.iter().map(|d| &d.message).collect();
    assert!(said.is_empty(), "{name}: {said:#?}");
    loaded.config.unwrap_or_else(|| panic!("{name}: neither a configuration nor an error"))
}

#[test]
fn no_example_draws_a_diagnostic() {
    let mut names: Vec<_> = std::fs::read_dir("examples")
        .expect("the folder is in the repository")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 5, "only {names:?}");
    for name in names {
        read(name.to_str().expect("our names are UTF-8"));
    }
}

#[test]
fn the_quickstart_takes_as_many_steps_as_it_says() {
    let config = read("examples/quickstart.yaml");
    assert_eq!(config.global_batch_size(), 8);
    let config::DataLoader::Megatron(data) = &config.dataset.loader else { panic!("not a Megatron data set") };
    assert_eq!(data.sizes.value[0], 200 * 8);
}
