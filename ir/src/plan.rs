//! The plan: the only thing that crosses from compiling to running.
//!
//! A plan is a directory: `plan.json` (this structure), `kernels/` (one shared object for CPU) and, when asked for,
//! `ir/NN_pass.mlir`. A backend executes steps over buffers at fixed arena offsets; it knows nothing of the model.

use crate::collective::Collective;
use crate::func::{Init, Loc, Role};
use crate::memory::Memory;
use crate::module::Mesh;
use crate::op::Op;
use crate::pipeline::Act;
use crate::run::RunSpec;
use crate::sharding::{Sharding, Slice};
use crate::target::CpuLevel;
use crate::types::DType;
use serde::{Deserialize, Serialize};

/// Version of the format; a runner refuses any other.
pub const VERSION: u32 = 3;

/// [`Target::device`] of a plan that runs on a CPU.
pub const CPU: &str = "cpu";
/// [`Target::device`] of a plan that has no machine code: it can be looked at, not run.
pub const SIM: &str = "sim";

/// What a buffer holds between steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BufferRole {
    /// Written by the runtime before a program runs: tokens, labels, mask, per-step scalars.
    Input,
    /// A trained weight.
    Weight {
        /// First values when no checkpoint gives them.
        init: Init,
    },
    /// Optimizer state; zero at the start, saved with checkpoints.
    Moment,
    /// Gradient passed from `micro` to `update`; zeroed before the first micro-batch of a step when accumulating.
    Grad,
    /// Computed by the `setup` program once and kept: rope tables, low-precision copies of weights.
    Persistent,
    /// A value of one program run, its place shared with others that do not live at the same time.
    Activation,
    /// Scratch memory of one step.
    Scratch,
    /// A value of a micro-batch that lives from one program of a pipeline's stage to another, in a slot: of slot k it is
    /// `k · stride` bytes behind its offset.
    Stash {
        /// Chunk of layers whose value it is; chunks lay their slots out each for itself.
        chunk: usize,
        /// Bytes of a slot.
        stride: usize,
    },
    /// What the slices of a micro-batch share: of micro-batch m it is `(m mod caches) · stride` bytes behind its offset.
    Cache {
        /// Bytes of the caches of a micro-batch.
        stride: usize,
    },
}

impl From<&Role> for BufferRole {
    /// What a function parameter becomes.
    fn from(role: &Role) -> Self {
        match role {
            Role::Input => Self::Input,
            Role::Weight { init, .. } => Self::Weight { init: init.clone() },
            Role::Moment => Self::Moment,
            Role::Grad => Self::Grad,
            // Places of such values are slots, whose size is not known before all values are.
            Role::Handed => Self::Activation,
            // How far those of micro-batches are apart is known when all are.
            Role::Cache => Self::Cache { stride: 0 },
            Role::ExpertBias { .. } => Self::Weight { init: Init::Constant { value: 0.0 } },
        }
    }
}

/// A place in the arena of a memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// Global name for weights, moments, gradients, inputs and outputs; a generated one otherwise.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dims, row-major.
    pub dims: Vec<usize>,
    /// Which memory it lies in.
    #[serde(default, skip_serializing_if = "Memory::is_device")]
    pub memory: Memory,
    /// Byte offset in that memory's arena, a multiple of 64 unless the buffer is a view into another.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
    /// What it holds.
    pub role: BufferRole,
    /// How it is spread over the mesh; `dims` are those of one rank's part.
    #[serde(default, skip_serializing_if = "Sharding::is_whole")]
    pub sharding: Sharding,
    /// First and last step (indices in its program) that touch it; `None` for what lives between programs.
    pub live: Option<(usize, usize)>,
}

impl Buffer {
    /// Whether it shares a byte with `other`.
    pub fn shares(&self, other: &Self) -> bool {
        let meet = self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes;
        self.memory == other.memory && meet
    }

    /// Which part of the whole value rank `rank` of `mesh` holds.
    pub fn slice(&self, mesh: &Mesh, rank: usize) -> Slice {
        self.sharding.slice(mesh, rank, &self.dims)
    }
}

/// Element type and strides of a matrix operand of a GEMM; strides in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatRef {
    /// Element type.
    pub dtype: DType,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

/// C\[m,n\] (+)= A\[m,k\]·B\[k,n\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GemmSpec {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Left operand.
    pub a: MatRef,
    /// Right operand.
    pub b: MatRef,
    /// Result.
    pub c: MatRef,
    /// Add to what C holds instead of overwriting it.
    pub accumulate: bool,
}

impl GemmSpec {
    /// The same product written as Cᵀ = Bᵀ·Aᵀ: operands change places and every matrix its strides.
    #[must_use]
    pub fn transposed(self) -> Self {
        let flip = |m: MatRef| MatRef { row_stride: m.col_stride, col_stride: m.row_stride, ..m };
        Self { m: self.n, n: self.m, a: flip(self.b), b: flip(self.a), c: flip(self.c), ..self }
    }
}

/// How a kernel is carried out on the CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum KernelKind {
    /// A symbol of the plan's shared object: `void symbol(void** buffers, i64 lo, i64 hi, i64 worker)`, run over
    /// `0..grid` split between the workers. The step's buffers are its inputs, then its outputs, then its scratch.
    Generated {
        /// Exported symbol.
        symbol: String,
        /// Number of independent grid items.
        grid: usize,
    },
    /// Matrix product by the library if it can be opened, else by `fallback`; buffers a, b, c.
    Gemm {
        /// The product.
        spec: GemmSpec,
        /// Kernel to use when the library is missing or slower.
        fallback: Option<usize>,
    },
}

/// A kernel, shared by every step that runs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Name for people: what it fuses.
    pub name: String,
    /// How it runs.
    pub kind: KernelKind,
    /// Floating-point operations of one run.
    pub flops: u64,
    /// Bytes read and written by one run.
    pub bytes: u64,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// One op by the reference implementation: everything at `-O0`, scalars otherwise.
    Op(Op),
    /// Index into [`Plan::kernels`].
    Kernel(usize),
    /// (how often i32, how often so far i32) → (how often so far): counts the steps from `first` to before this one as done once
    /// more, and goes back to `first` until they were done as often as is wanted, once at least. All of both streams has ended
    /// by then.
    Again {
        /// Where to go back to.
        first: usize,
    },
}

/// What carries a step out: each stream takes its steps in the order of the program, beside the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Kernels and ops; collective operations with nothing to do beside them.
    #[default]
    Compute,
    /// Collective operations while others compute.
    Communication,
}

impl Stream {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_compute(&self) -> bool {
        *self == Self::Compute
    }
}

/// One unit of work in a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// Buffers read, in operand order (indices into [`Stage::buffers`]).
    #[serde(rename = "in")]
    pub inputs: Vec<usize>,
    /// Buffers written, in result order; scratch last.
    #[serde(rename = "out")]
    pub outputs: Vec<usize>,
    /// What carries it out.
    #[serde(default, skip_serializing_if = "Stream::is_compute")]
    pub stream: Stream,
    /// The last step of the other stream that must have ended before this one begins, if there is one that has not ended for
    /// certain; what is before that one in its stream has ended then, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<usize>,
    /// Block and YAML line it comes from.
    pub loc: Loc,
}

impl Step {
    /// A step that waits for all before it.
    pub fn new(action: Action, inputs: Vec<usize>, outputs: Vec<usize>, loc: Loc) -> Self {
        Self { action, inputs, outputs, stream: Stream::Compute, after: None, loc }
    }

    /// The collective operation that it sends something for.
    pub fn sends(&self) -> Option<&Collective> {
        match &self.action {
            Action::Op(Op::Collective(c)) if c.sends() => Some(c),
            _ => None,
        }
    }
}

/// A sequence of steps: `setup` (once), `micro` (per micro-batch), `update` (per optimizer step), `forward`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Name.
    pub name: String,
    /// Steps in execution order.
    pub steps: Vec<Step>,
    /// Result name → buffer that holds it after the program: `loss`, `grad_norm`, `logits`.
    pub results: Vec<(String, usize)>,
}

/// What passes between a chunk of a pipeline's stage and its neighbours; buffers by index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// What the position before hands on, in slots.
    pub arrives: Vec<usize>,
    /// What the forward program leaves for the next position.
    pub leaves: Vec<usize>,
    /// What comes back from the next position, in slots.
    pub returns: Vec<usize>,
    /// What the backward program leaves for the position before.
    pub goes_back: Vec<usize>,
}

/// What a stage does in the micro-batches of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePipeline {
    /// Micro-batches that may be in flight.
    pub slots: usize,
    /// Offset of the first slot.
    pub slots_at: usize,
    /// Size of a slot.
    pub slot_bytes: usize,
    /// Offset of the first slot's part on the host.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_slots_at: usize,
    /// Size of a slot's part on the host.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_slot_bytes: usize,
    /// Micro-batches whose slices may be under way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub caches: usize,
    /// Offset of the caches of the first of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub caches_at: usize,
    /// Bytes of the caches of one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_bytes: usize,
    /// By chunk.
    pub chunks: Vec<Chunk>,
    /// In order.
    pub acts: Vec<Act>,
}

/// What the ranks of one pipeline stage run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Exact size of the one arena that holds every buffer of the device: its peak memory.
    pub arena_bytes: usize,
    /// Exact size of the arena that holds every buffer of the host.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_bytes: usize,
    /// Places in the arenas.
    pub buffers: Vec<Buffer>,
    /// Programs.
    pub programs: Vec<Program>,
    /// The order of the programs of micro-batches, and what goes to and comes from other stages; `None` without a pipeline,
    /// where `micro` runs once for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<StagePipeline>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl StagePipeline {
    /// Which caches micro-batch `micro` has.
    pub fn cache(&self, micro: usize) -> usize {
        micro.checked_rem(self.caches).unwrap_or(0)
    }

    /// Offset of the first slot and size of a slot in `memory`.
    pub fn slots_in(&self, memory: Memory) -> (usize, usize) {
        match memory {
            Memory::Device => (self.slots_at, self.slot_bytes),
            Memory::Host => (self.host_slots_at, self.host_slot_bytes),
        }
    }
}

impl Stage {
    /// Size of the arena in `memory`.
    pub fn bytes_in(&self, memory: Memory) -> usize {
        match memory {
            Memory::Device => self.arena_bytes,
            Memory::Host => self.host_bytes,
        }
    }

    /// The program called `name`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name == name)
    }

    /// Index of the buffer called `name`.
    pub fn buffer(&self, name: &str) -> Option<usize> {
        self.buffers.iter().position(|b| b.name == name)
    }
}

/// What the plan was compiled for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// [`CPU`] or [`SIM`].
    pub device: String,
    /// Instruction sets that the kernels use; checked again at load.
    pub cpu: CpuLevel,
    /// Number of workers that per-worker scratch is sized for and partitions are made for.
    pub threads: usize,
}

/// An executable plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// blake3 of the configuration the plan was compiled from, hex.
    pub config_hash: String,
    /// Name and version of the compiler.
    pub compiler: String,
    /// Model, for people.
    pub model: String,
    /// What it runs on.
    pub target: Target,
    /// Device mesh.
    pub mesh: Mesh,
    /// One per pipeline stage.
    pub stages: Vec<Stage>,
    /// Kernels, shared by all stages.
    pub kernels: Vec<Kernel>,
    /// Training run.
    pub run: RunSpec,
}
