//! The published 671B configurations compile to proven plans, with work that depends on stages and layers, not on ranks.
#![cfg(feature = "compiler")]

mod support;

use athanor_frontend::config::load;
use athanor_frontend::{model, run};
use athanor_ir::plan::BufferRole;
use athanor_ir::target::CpuLevel;
use athanor_ir::{Memory, Plan};
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::plan::{PlanOptions, build};
use support::{apply, golden};

/// The plan of a file of the corpus, without machine code; making it proves it.
fn plan(file: &str, changes: &[(&str, &str)]) -> Plan {
    let changes: Vec<_> = changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let loaded = load(&golden("corpus").join(file), &changes);
    let config = loaded.config.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
    let run = run::spec(&config).unwrap_or_else(|e| panic!("{e}"));
    let module = model::build(&config, run, false).unwrap_or_else(|e| panic!("{e}"));
    let level = CpuLevel::Avx2;
    let module = apply(&module, &pipeline(&module, OptLevel::O1, true, 0, (2, level)));
    let options = PlanOptions { threads: 2, level, config_hash: String::new(), reference: false };
    build(&module, &options).unwrap_or_else(|e| panic!("{e}")).simulated().plan
}

/// Steps of all programs of all stages.
fn steps(plan: &Plan) -> usize {
    plan.stages.iter().flat_map(|s| &s.programs).map(|p| p.steps.len()).sum()
}

/// Elements of all weights, whole; one on two stages counts once.
fn parameters(plan: &Plan) -> usize {
    let buffers = plan.stages.iter().flat_map(|s| &s.buffers);
    let weights = buffers.filter(|b| matches!(b.role, BufferRole::Weight { .. }) && !b.name.ends_with("_bias"));
    let sizes = weights.map(|b| (b.name.as_str(), b.slice(&plan.mesh, 0).dims.iter().product::<usize>()));
    sizes.collect::<std::collections::BTreeMap<_, _>>().values().sum()
}

const MCORE: &str = "pretrain_deepseek3_671b@pypi-2.1.0.yaml";
const ALL: usize = 671_026_404_352 + 11_610_067_968;

#[test]
fn work_is_that_of_stages_and_layers_whatever_the_number_of_ranks() {
    let small = plan(MCORE, &[]);
    assert_eq!((small.mesh.ranks(), small.stages.len(), parameters(&small)), (256, 8, ALL));
    // As the file says, the optimizer's state is on the host.
    let moments = || small.stages.iter().flat_map(|s| &s.buffers).filter(|b| b.role == BufferRole::Moment);
    assert!(moments().count() > 0 && moments().all(|b| b.memory == Memory::Host));
    assert!(small.stages.iter().all(|s| s.host_bytes > s.arena_bytes / 10));
    let large = plan(MCORE, &[("parallel_config.data_parallel", "128")]);
    assert_eq!((large.mesh.ranks(), large.stages.len(), parameters(&large)), (8192, 8, ALL));
    assert!(steps(&large) * 20 <= steps(&small) * 21, "{} steps become {}", steps(&small), steps(&large));
    assert!(large.kernels.len() * 20 <= small.kernels.len() * 21);
}

#[test]
fn legacy_layouts_compile_for_their_mesh() {
    let legacy = plan("pretrain_deepseek3_671b@r1.5.0.yaml", &[]);
    assert_eq!((legacy.mesh.ranks(), legacy.stages.len(), parameters(&legacy)), (1024, 16, ALL));
}
