//! A compiled plan on the CPU device, with its inputs and results by name.

use std::collections::HashMap;
use std::sync::Arc;

use athanor_backends::cpu::device::{CpuDevice, DeviceOptions};
use athanor_backends::cpu::reference::Tensor;
use athanor_ir::plan::{Buffer, BufferRole};
use athanor_ir::target::CpuLevel;
use athanor_ir::{Module, TensorType};
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::plan::{PlanOptions, build};

use super::apply;

/// How a module is compiled and run.
#[derive(Debug, Clone, Copy)]
pub struct Compilation {
    /// Optimisation.
    pub opt: OptLevel,
    /// Instructions of generated kernels.
    pub level: CpuLevel,
    /// Whether products may go to the library.
    pub library: bool,
    /// Whether to compile for training.
    pub train: bool,
    /// Threads the plan is made for, and threads that run it.
    pub threads: (usize, usize),
}

/// A plan on the device, ready to run.
pub struct Run {
    device: CpuDevice,
}

impl Run {
    /// Compiles `module` for two workers, the loss over four blocks of tokens; fills in `weights` and runs `setup`.
    pub fn new(module: &Module, how: Compilation, weights: &HashMap<String, Tensor>) -> Self {
        let module = apply(module, &pipeline(module, how.opt, how.train, 4));
        let reference = how.opt == OptLevel::O0;
        let options = PlanOptions { threads: how.threads.0, level: how.level, config_hash: String::new(), reference };
        let compiled = build(&module, &options).unwrap_or_else(|e| panic!("{e}"));
        let dir = tempfile::tempdir().unwrap();
        let kernels = dir.path().join("kernels.so");
        if !compiled.texts.is_empty() {
            build_shared_object(&compiled.texts, how.level, &kernels).unwrap_or_else(|e| panic!("{e}: {:?}", e.help));
        }
        let options = DeviceOptions {
            kernels: Some(kernels),
            threads: Some(how.threads.1),
            library: how.library,
            profile: false,
        };
        let device = CpuDevice::new(Arc::new(compiled.plan), 0, &options).unwrap_or_else(|e| panic!("{e}"));
        let mut run = Self { device };
        let is_weight = |b: &&Buffer| matches!(b.role, BufferRole::Weight { .. });
        let names: Vec<String> = run.device.stage().buffers.iter().filter(is_weight).map(|b| b.name.clone()).collect();
        for name in names {
            run.put(&name, &weights[&name].bytes);
        }
        if run.device.stage().program("setup").is_some() {
            run.program("setup");
        }
        run
    }

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
