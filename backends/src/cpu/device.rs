//! The CPU as a device: its arenas, the plan's kernels, and the execution of programs step by step.

use super::arena::Arenas;
use super::check::{check, range, stride};
use super::features;
use super::onednn::OneDnn;
use super::pool::Pool;
use super::profile::Profile;
use crate::comm::Communicator;
use athanor_ir::plan::{BufferRole, GemmSpec, KernelKind, Plan, Program, Stage, Stream};
use athanor_ir::{Code, Diagnostic, Memory, Op, Result};
use libloading::Library;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod again;
mod beside;
mod collectives;
mod copies;
mod load;
mod operands;
mod run;

use again::Again;
use collectives::Meeting;
use load::Loader;
pub use operands::At;
use operands::{Addresses, Operand};

/// The plan's kernels cannot be loaded.
pub const KERNELS: Code = Code {
    id: "B0202",
    title: "the plan's kernels cannot be loaded",
    explain: "A compiled plan has its kernels in a shared object, `kernels/kernels.so` in the plan directory. It is missing, \
              is not a shared object for this system, or lacks a kernel that the plan names. Compile the plan again.",
};

/// The arena does not fit in memory.
pub const NO_MEMORY: Code = Code {
    id: "B0203",
    title: "the arena does not fit in memory",
    explain: "A plan needs one block of memory of exactly known size, and the operating system refused to reserve it. Use a \
              smaller batch or sequence, more gradient accumulation, recomputation, or a machine with more memory.",
};

/// A step refused its data.
pub const STEP_FAILED: Code = Code {
    id: "B0204",
    title: "a step of the plan failed",
    explain: "An op met data that it cannot take, such as a label outside the vocabulary. The message names the \
              program, the step and the block of the model.",
};

/// More workers than the plan was compiled for.
pub const BAD_THREADS: Code = Code {
    id: "B0205",
    title: "unusable number of threads",
    explain: "Kernels have scratch memory for each worker, and the plan has room for as many as it was compiled for. A plan \
              runs with fewer threads, but not with more, and with at least one.",
};

/// The plan has no such program.
pub const NO_PROGRAM: Code = Code {
    id: "B0206",
    title: "the plan has no such program",
    explain: "A training plan has the programs micro and update, and setup if something is computed once. This one was \
              compiled for something else.",
};

/// A collective operation without its group.
pub const NO_GROUP: Code = Code {
    id: "B0208",
    title: "a step needs other ranks",
    explain: "The plan is for several ranks, and a step of it is an operation of a group of them. It is run by as many ranks as \
              its mesh has: `athanor train PLAN` starts them, and `athanor inspect PLAN` shows the mesh.",
};

/// Communicators by the axes of the mesh over which their groups are, as [`Collective::axes`] names them.
pub type Groups = Vec<(String, Box<dyn Communicator>)>;

/// More workers than any machine has; a larger number is a damaged plan.
const MOST_THREADS: usize = 4096;

/// How a plan is executed.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// Workers; the plan's number when `None`.
    pub threads: Option<usize>,
    /// Shared object with the plan's generated kernels; `None` for a plan that has none.
    pub kernels: Option<PathBuf>,
    /// Use oneDNN for matrix products when it is installed.
    pub library: bool,
    /// Communicate beside computation where the plan says so; otherwise in turn, which gives the same.
    pub overlap: bool,
    /// Measure every step.
    pub profile: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self { threads: None, kernels: None, library: true, overlap: true, profile: false }
    }
}

/// `void symbol(void** buffers, i64 lo, i64 hi, i64 worker)`
type KernelFn = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

/// A step, resolved as far as can be before it runs.
enum Work {
    Reference {
        op: Op,
        ins: Vec<Operand>,
        outs: Vec<Operand>,
    },
    Generated {
        call: KernelFn,
        grid: usize,
        buffers: Addresses,
    },
    Library {
        spec: GemmSpec,
        buffers: Addresses,
    },
    Plain {
        spec: GemmSpec,
        buffers: Addresses,
    },
    /// From one memory to the other.
    Copy {
        from: Operand,
        to: Operand,
    },
    Collective(Meeting),
    Again(Again),
}

struct Prepared {
    work: Work,
    stream: Stream,
    /// Step of the other stream that must have ended before.
    after: Option<usize>,
    /// Row of the profile.
    row: usize,
    flops: u64,
    bytes: u64,
}

/// Executes the programs of one stage of a plan.
pub struct CpuDevice {
    // Steps hold addresses into the arenas and the library: they are dropped first.
    programs: HashMap<String, Vec<Prepared>>,
    plan: Arc<Plan>,
    stage: usize,
    names: HashMap<String, usize>,
    arenas: Arenas,
    pool: Pool,
    onednn: Option<OneDnn>,
    overlap: bool,
    profile: Option<Profile>,
    groups: Groups,
    _library: Option<Library>,
}

impl std::fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bytes, threads) = (self.arenas.of(Memory::Device).len(), self.pool.threads());
        f.debug_struct("CpuDevice").field("arena", &bytes).field("threads", &threads).finish_non_exhaustive()
    }
}

impl CpuDevice {
    /// Checks stage `stage` of `plan`, loads its kernels and reserves its arenas, filled with zeros.
    ///
    /// # Errors
    /// [`super::check::BAD_PLAN`], [`super::UNSUPPORTED_CPU`], [`KERNELS`], [`NO_MEMORY`], [`BAD_THREADS`].
    pub fn new(plan: Arc<Plan>, stage: usize, options: &DeviceOptions) -> Result<Self> {
        Self::in_groups(plan, stage, options, vec![])
    }

    /// As [`Self::new`], for one of several ranks: `groups` has a communicator for each list of axes that the plan names.
    ///
    /// # Errors
    /// As [`Self::new`], and [`NO_GROUP`].
    pub fn in_groups(plan: Arc<Plan>, stage: usize, options: &DeviceOptions, groups: Groups) -> Result<Self> {
        check(&plan, stage)?;
        let compiled = plan.kernels.iter().any(|k| matches!(k.kind, KernelKind::Generated { .. }));
        if compiled {
            features::check(plan.target.cpu)?;
        }
        let threads = threads(&plan, options.threads)?;
        let library = match &options.kernels {
            Some(path) if compiled => Some(open(path)?),
            None if compiled => {
                let e = Diagnostic::error(&KERNELS, "the plan has generated kernels, and no file with them was given");
                return e.help("run the whole plan directory, not plan.json alone").err();
            }
            _ => None,
        };
        let s = &plan.stages[stage];
        let mut arenas = Arenas::new(s).or_else(|e| {
            let host = if s.host_bytes == 0 { String::new() } else { format!(" and {} on the host", s.host_bytes) };
            Diagnostic::error(&NO_MEMORY, format!("cannot reserve the arena of {} bytes{host}: {e}", s.arena_bytes))
                .help("use a smaller batch_size or seq_length, or a machine with more memory")
                .err()
        })?;
        let pool = Pool::new(threads)?;
        let wants_library = options.library && plan.kernels.iter().any(|k| matches!(k.kind, KernelKind::Gemm { .. }));
        let onednn = wants_library.then(OneDnn::load).flatten();
        let mut profile = Profile::default();
        // What loading asks of communicators: they themselves are not for other threads to look at.
        let sizes: Vec<(String, usize)> = groups.iter().map(|(axes, c)| (axes.clone(), c.size())).collect();
        let base = arenas.bases().of(Memory::Device);
        let mut loader =
            Loader { plan: &plan, stage: s, base, library: library.as_ref(), onednn: onednn.as_ref(), groups: &sizes };
        // The library compiles its products on one thread; the pages of the arenas come meanwhile.
        let programs = while_populating(&arenas, threads, || {
            let program = |p: &Program| -> Result<(String, Vec<Prepared>)> {
                let steps = p.steps.iter().map(|step| loader.prepare(step, threads, &mut profile));
                Ok((p.name.clone(), steps.collect::<Result<Vec<_>>>()?))
            };
            s.programs.iter().map(program).collect::<Result<HashMap<_, _>>>()
        })?;
        let names = s.buffers.iter().enumerate().map(|(i, b)| (b.name.clone(), i)).collect();
        let profile = options.profile.then_some(profile);
        let overlap = options.overlap;
        Ok(Self { programs, plan, stage, names, arenas, pool, onednn, overlap, profile, groups, _library: library })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The stage that this device executes.
    pub fn stage(&self) -> &Stage {
        &self.plan.stages[self.stage]
    }

    /// Its number.
    pub fn stage_index(&self) -> usize {
        self.stage
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Workers, for work between programs.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether matrix products go to oneDNN.
    pub fn uses_library(&self) -> bool {
        self.onednn.is_some()
    }

    /// Index of the buffer called `name`.
    pub fn buffer(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Contents of buffer `index` (of [`Stage::buffers`]), row-major, in the machine's byte order.
    ///
    /// # Panics
    /// If there is no such buffer.
    pub fn bytes(&self, index: usize) -> &[u8] {
        let b = &self.stage().buffers[index];
        &self.arenas.of(b.memory).bytes()[range(b)]
    }

    /// Contents of buffer `index`, to write.
    ///
    /// # Panics
    /// If there is no such buffer.
    pub fn bytes_mut(&mut self, index: usize) -> &mut [u8] {
        let b = &self.plan.stages[self.stage].buffers[index];
        &mut self.arenas.of_mut(b.memory).bytes_mut()[range(b)]
    }

    /// Contents of buffer `index` in slot `slot`: a [`BufferRole::Stash`]; other buffers lie in no slot.
    ///
    /// # Panics
    /// If there is no such buffer or slot.
    pub fn bytes_in_slot(&self, index: usize, slot: usize) -> &[u8] {
        &self.arenas.of(self.memory(index)).bytes()[self.range_in_slot(index, slot)]
    }

    /// As [`Self::bytes_in_slot`], to write.
    ///
    /// # Panics
    /// If there is no such buffer or slot.
    pub fn bytes_in_slot_mut(&mut self, index: usize, slot: usize) -> &mut [u8] {
        let (range, memory) = (self.range_in_slot(index, slot), self.memory(index));
        &mut self.arenas.of_mut(memory).bytes_mut()[range]
    }

    /// Copies buffer `from.0` in slot `from.1` to a buffer of its size, `to.0` in slot `to.1`.
    ///
    /// # Panics
    /// If there is no such buffer or slot.
    pub fn copy_in_slots(&mut self, from: (usize, usize), to: (usize, usize)) {
        let (from, to) = (self.range_in_slot(from.0, from.1), self.range_in_slot(to.0, to.1));
        // What passes from chunk to chunk is on the device.
        self.arenas.of_mut(Memory::Device).bytes_mut().copy_within(from, to.start);
    }

    fn memory(&self, index: usize) -> Memory {
        self.stage().buffers[index].memory
    }

    fn range_in_slot(&self, index: usize, slot: usize) -> Range<usize> {
        let b = &self.stage().buffers[index];
        let shift = slot * stride(b);
        b.offset + shift..b.offset + shift + b.bytes
    }

    /// Contents of buffer `index` and the workers, to fill it with all of them.
    ///
    /// # Panics
    /// If there is no such buffer.
    pub fn bytes_and_pool(&mut self, index: usize) -> (&mut [u8], &Pool) {
        let b = &self.plan.stages[self.stage].buffers[index];
        (&mut self.arenas.of_mut(b.memory).bytes_mut()[range(b)], &self.pool)
    }

    /// Fills every gradient with zeros.
    pub fn zero_gradients(&mut self) {
        for b in self.plan.stages[self.stage].buffers.iter().filter(|b| b.role == BufferRole::Grad) {
            self.arenas.of_mut(b.memory).bytes_mut()[range(b)].fill(0);
        }
    }

    /// The scalar result `result` of `program` as f64; valid until another program runs. `None` if there is none.
    pub fn scalar(&self, program: &str, result: &str) -> Option<f64> {
        self.scalar_in_slot(program, result, 0)
    }

    /// As [`Self::scalar`], of the micro-batch that has slot `slot`: what a later program reads is kept there.
    pub fn scalar_in_slot(&self, program: &str, result: &str, slot: usize) -> Option<f64> {
        let (_, index) = self.stage().program(program)?.results.iter().find(|(n, _)| n == result)?;
        let b = self.stage().buffers.get(*index)?;
        let bytes = self.bytes_in_slot(*index, slot);
        if b.dims.iter().product::<usize>() != 1 {
            return None;
        }
        let one = |n: usize| bytes.get(..n);
        Some(match b.dtype {
            athanor_ir::DType::F64 => f64::from_ne_bytes(one(8)?.try_into().ok()?),
            athanor_ir::DType::F32 => f64::from(f32::from_ne_bytes(one(4)?.try_into().ok()?)),
            athanor_ir::DType::BF16 => half::bf16::from_ne_bytes(one(2)?.try_into().ok()?).to_f64(),
            athanor_ir::DType::F16 => half::f16::from_ne_bytes(one(2)?.try_into().ok()?).to_f64(),
            athanor_ir::DType::I32 => f64::from(i32::from_ne_bytes(one(4)?.try_into().ok()?)),
        })
    }

    /// Time by kernel, if it is measured.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// As [`Self::profile`], to clear it.
    pub fn profile_mut(&mut self) -> Option<&mut Profile> {
        self.profile.as_mut()
    }
}

fn threads(plan: &Plan, asked: Option<usize>) -> Result<usize> {
    let most = plan.target.threads;
    let fail =
        |text: String| Diagnostic::error(&BAD_THREADS, text).help("compile the plan for this many threads").err();
    if most == 0 || most > MOST_THREADS {
        return fail(format!("the plan is compiled for {most} threads"));
    }
    match asked {
        None => Ok(most),
        Some(n) if (1..=most).contains(&n) => Ok(n),
        Some(n) => fail(format!("{n} threads were asked for; the plan is compiled for at most {most}")),
    }
}

fn open(path: &Path) -> Result<Library> {
    // A name without a slash would be searched for in the system's directories.
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    // SAFETY: the object's initialisers run. It belongs to the plan directory, which the user asked to execute.
    unsafe { Library::new(&file) }.or_else(|e| {
        Diagnostic::error(&KERNELS, format!("cannot load {}: {e}", path.display()))
            .help("compile the plan again on this kind of machine")
            .err()
    })
}

/// The result of `work`, during which `threads` threads take the pages of the arenas from the system.
fn while_populating<T>(arenas: &Arenas, threads: usize, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        for share in 0..threads {
            let thread = std::thread::Builder::new().name(format!("athanor-pages-{share}"));
            // Without the thread its share is taken at the first touch.
            let _ = thread.spawn_scoped(scope, move || arenas.populate(share, threads));
        }
        work()
    })
}

#[cfg(test)]
mod tests;
