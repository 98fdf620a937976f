//! A compiled plan on the CPU device, with its inputs and results by name.

use std::collections::HashMap;
use std::sync::Arc;

use athanor_backends::cpu::device::{CpuDevice, DeviceOptions};
use athanor_backends::cpu::reference::Tensor;
use athanor_ir::plan::{Buffer, BufferRole, Plan};
use athanor_ir::target::CpuLevel;
use athanor_ir::{Module, TensorType};
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::plan::{PlanOptions, build};

use super::{apply, kernel_cache};

/// How a module is compiled.
#[derive(Debug, Clone, Copy)]
pub struct Compilation {
    /// Optimisation.
    pub opt: OptLevel,
    /// Instructions of generated kernels.
    pub level: CpuLevel,
    /// Whether to compile for training.
    pub train: bool,
    /// Threads the plan is made for.
    pub threads: usize,
}

/// A plan with its kernels.
pub struct Compiled {
    plan: Arc<Plan>,
    /// Holds `kernels.so`.
    dir: tempfile::TempDir,
}

impl Compiled {
    /// Compiles `module`, the loss over four blocks of tokens.
    pub fn new(module: &Module, how: Compilation) -> Self {
        let module = apply(module, &pipeline(module, how.opt, how.train, 4, (how.threads, how.level)));
        let reference = how.opt == OptLevel::O0;
        let options = PlanOptions { threads: how.threads, level: how.level, config_hash: String::new(), reference };
        let compiled = build(&module, &options).unwrap_or_else(|e| panic!("{e}"));
        let dir = tempfile::tempdir().unwrap();
        if !compiled.texts.is_empty() {
            let kernels = dir.path().join("kernels.so");
            build_shared_object(&compiled.texts, how.level, Some(&kernel_cache()), &kernels)
                .unwrap_or_else(|e| panic!("{e}: {:?}", e.help));
        }
        Self { plan: Arc::new(compiled.plan), dir }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan on a device with `threads` workers, which may use the library for products or not; `weights` are filled in
    /// and `setup` has run.
    pub fn start(&self, threads: usize, library: bool, weights: &HashMap<String, Tensor>) -> Run {
        let kernels = Some(self.dir.path().join("kernels.so"));
        let options = DeviceOptions { kernels, threads: Some(threads), library, ..DeviceOptions::default() };
        let device = CpuDevice::new(Arc::clone(&self.plan), 0, &options).unwrap_or_else(|e| panic!("{e}"));
        let mut run = Run { device };
        let is_weight = |b: &&Buffer| matches!(b.role, BufferRole::Weight { .. });
        for weight in self.plan.stages[0].buffers.iter().filter(is_weight) {
            run.put(&weight.name, &weights[&weight.name].bytes);
        }
        if run.device.stage().program("setup").is_some() {
            run.program("setup");
        }
        run
    }
}

/// A plan on the device, ready to run.
pub struct Run {
    device: CpuDevice,
}

impl Run {
    /// Fills the buffer called `name`.
    pub fn put(&mut self, name: &str, bytes: &[u8]) {
        let i = self.device.buffer(name).unwrap_or_else(|| panic!("no buffer {name}"));
        self.device.bytes_mut(i).copy_from_slice(bytes);
    }

    /// Fills an f32 scalar.
    pub fn put_scalar(&mut self, name: &str, x: f64) {
        self.put(name, &(x as f32).to_le_bytes());
    }

    /// Runs a program.
    pub fn program(&mut self, name: &str) {
        self.device.run_program(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// The scalar result `result` of `program`, which ran last.
    pub fn scalar(&self, program: &str, result: &str) -> f64 {
        self.device.scalar(program, result).unwrap_or_else(|| panic!("no scalar {result}"))
    }

    /// The result `result` of `program`, which ran last.
    pub fn result(&self, program: &str, result: &str) -> Tensor {
        let results = &self.device.stage().program(program).expect("a program of the plan").results;
        let (_, i) = results.iter().find(|(n, _)| n == result).unwrap_or_else(|| panic!("no result {result}"));
        self.tensor(*i)
    }

    /// The buffer called `name`.
    pub fn buffer(&self, name: &str) -> Tensor {
        self.tensor(self.device.buffer(name).unwrap_or_else(|| panic!("no buffer {name}")))
    }

    fn tensor(&self, i: usize) -> Tensor {
        let b = &self.device.stage().buffers[i];
        Tensor { ty: TensorType::new(b.dtype, b.dims.clone()), bytes: self.device.bytes(i).to_vec() }
    }
}
