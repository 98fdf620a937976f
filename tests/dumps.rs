//! Every dump of a real compilation is a complete program: read back it is the same module, and the passes that are
//! left make the same result of it.

use athanor_frontend::{config, model, run};
use athanor_ir::Module;
use athanor_ir::mlir::Context;
use athanor_ir::target::CpuLevel;
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::opt::opt;
use athanor_passes::{Observe, manager, registry};
use std::path::Path;

fn module(path: &str, set: &[(&str, &str)]) -> Module {
    let set: Vec<(String, String)> = set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let loaded = config::load(Path::new(path), &set);
    let config = loaded.config.unwrap_or_else(|| panic!("{path}: {:?}", loaded.diagnostics));
    let run = run::spec(&config).unwrap_or_else(|e| panic!("{path}: {e}"));
    model::build(&config, run, false).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn continues_from_every_dump(path: &str, set: &[(&str, &str)]) {
    let module = module(path, set);
    let text = pipeline(&module, OptLevel::O1, true, 2, (2, CpuLevel::Portable));
    let passes = registry::build(&text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let observe = Observe { dump_dir: Some(dir.path().to_owned()), ..Observe::default() };
    let (after, timings) = manager::run(&module, &passes, &observe).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(timings.passes.len(), passes.len());
    let context = Context::new();
    let last = context.emit(&after).unwrap().print();

    let stages: Vec<&str> = text.split(',').collect();
    let mut dumps: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    dumps.sort();
    assert_eq!(dumps.len(), stages.len() + 1);
    for (i, dump) in dumps.iter().enumerate() {
        let name = dump.display().to_string();
        let dump = std::fs::read_to_string(dump).unwrap();
        if i == 0 {
            let read = context.parse(&name, &dump).unwrap().verify().unwrap();
            assert_eq!(read.run, module.run, "{path}");
            assert_eq!(read.funcs.len(), module.funcs.len(), "{path}");
        }
        let left = stages[i..].join(",");
        let (result, _) = opt(&name, &dump, &left, &Observe::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(result == last, "{path}: `athanor opt --passes {left}` on {name} ends elsewhere");
    }
}

#[test]
fn a_small_model() {
    continues_from_every_dump("examples/w1_tiny.yaml", &[]);
}

#[test]
fn the_quickstart() {
    continues_from_every_dump("examples/quickstart.yaml", &[]);
}

#[test]
fn a_model_in_bf16() {
    continues_from_every_dump("examples/w1_tiny.yaml", &[("model.model_config.compute_dtype", "bfloat16")]);
}
