//! From the last module to the plan: memory for every value, a step for every node, a kernel for every distinct step.

pub mod arena;
mod copies;
mod experts;
mod grouped;
pub mod layout;
mod lower;
mod matrix;
mod reduce;

use crate::codegen::llvm::KernelText;
use crate::prove::prove;
use arena::{Block, align, place};
use athanor_ir::diag::Result;
use athanor_ir::func::{Func, ValueId};
use athanor_ir::module::Module;
use athanor_ir::op::Op;
use athanor_ir::plan::{Action, Buffer, BufferRole, CPU, Kernel, Plan, Program, SIM, Stage, Step, Target, VERSION};
use athanor_ir::sharding::Sharding;
use athanor_ir::target::CpuLevel;
use athanor_ir::types::{DType, TensorType};
use layout::{Home, Layout, Names, Place, layout};
use std::collections::HashMap;

/// What a plan is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    /// Workers that will run it.
    pub threads: usize,
    /// Instruction sets that kernels may use.
    pub level: CpuLevel,
    /// blake3 of the configuration, hex.
    pub config_hash: String,
    /// `-O0`: every node is a step of the reference implementation.
    pub reference: bool,
}

/// A plan and the texts of the kernels that its shared object must hold.
#[derive(Debug)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// MLIR of each generated kernel.
    pub texts: Vec<KernelText>,
}

impl Compiled {
    /// The plan to look at, prove and price: everything but machine code.
    #[must_use]
    pub fn simulated(self) -> Self {
        let target = Target { device: SIM.into(), ..self.plan.target };
        Self { plan: Plan { target, ..self.plan }, texts: vec![] }
    }
}

/// Kernels of the plan by what they compute, so that equal work is generated once.
#[derive(Default)]
pub(crate) struct KernelTable {
    by_key: HashMap<String, usize>,
    kernels: Vec<Kernel>,
    scratch: Vec<usize>,
    texts: Vec<KernelText>,
}

impl KernelTable {
    /// Index of the kernel for `key`, made by `make` when it is new; `make` also gives its scratch bytes.
    pub(crate) fn get(
        &mut self,
        key: String,
        make: impl FnOnce(&mut Self) -> Result<(Kernel, usize, Option<KernelText>)>,
    ) -> Result<usize> {
        if let Some(i) = self.by_key.get(&key) {
            return Ok(*i);
        }
        let (kernel, scratch, text) = make(self)?;
        self.kernels.push(kernel);
        self.scratch.push(scratch);
        self.texts.extend(text);
        self.by_key.insert(key, self.kernels.len() - 1);
        Ok(self.kernels.len() - 1)
    }

    /// Scratch bytes that one run of kernel `i` needs, all workers together.
    pub(crate) fn scratch(&self, i: usize) -> usize {
        self.scratch[i]
    }

    /// A symbol for the next kernel.
    pub(crate) fn symbol(&self, stem: &str) -> String {
        format!("{stem}_{}", self.kernels.len())
    }
}

/// A step before offsets are known.
pub(crate) struct DraftStep {
    pub action: Action,
    pub inputs: Vec<(Place, TensorType)>,
    pub outputs: Vec<(Place, TensorType)>,
    /// Memory for the workers, bytes.
    pub scratch: Option<(Place, TensorType)>,
    pub node: Option<usize>,
}

/// Steps of one function before offsets are known.
pub(crate) struct Draft<'a> {
    pub func: &'a Func,
    pub layout: Layout,
    pub steps: Vec<DraftStep>,
}

impl Draft<'_> {
    /// Place and type of `value`.
    pub(crate) fn of(&self, value: ValueId) -> (Place, TensorType) {
        (self.layout.places[value.0 as usize], self.func.ty(value).clone())
    }

    /// A block for one step or a few, of `ty`.
    pub(crate) fn temporary(&mut self, ty: TensorType) -> (Place, TensorType) {
        self.layout.locals.push(ty.bytes());
        (Place { home: Home::Local(self.layout.locals.len() - 1), offset: 0 }, ty)
    }

    /// Appends a step.
    pub(crate) fn push(
        &mut self,
        node: usize,
        action: Action,
        inputs: Vec<(Place, TensorType)>,
        outputs: Vec<(Place, TensorType)>,
    ) {
        self.steps.push(DraftStep { action, inputs, outputs, scratch: None, node: Some(node) });
    }

    /// Appends a run of kernel `kernel` with the scratch it needs.
    pub(crate) fn run(
        &mut self,
        node: usize,
        kernels: &KernelTable,
        kernel: usize,
        inputs: Vec<(Place, TensorType)>,
        outputs: Vec<(Place, TensorType)>,
    ) {
        let bytes = kernels.scratch(kernel);
        let scratch = (bytes > 0).then(|| self.temporary(TensorType::new(DType::I32, [bytes.div_ceil(4)])));
        self.steps.push(DraftStep { action: Action::Kernel(kernel), inputs, outputs, scratch, node: Some(node) });
    }
}

/// A buffer with a global name.
struct Named {
    name: String,
    ty: TensorType,
    role: BufferRole,
    sharding: Sharding,
}

/// Makes the plan of a single-stage module, and proves that its ranks fit together.
///
/// # Errors
/// What a generator reports; [`crate::prove::UNMATCHED`].
pub fn build(module: &Module, options: &PlanOptions) -> Result<Compiled> {
    let mut kernels = KernelTable::default();
    let stage = stage(module, options, &mut kernels)?;
    let plan = Plan {
        version: VERSION,
        config_hash: options.config_hash.clone(),
        compiler: concat!("athanor ", env!("CARGO_PKG_VERSION")).to_owned(),
        model: module.name.clone(),
        target: Target { device: CPU.into(), cpu: options.level, threads: options.threads },
        mesh: module.mesh.clone(),
        stages: vec![stage],
        kernels: kernels.kernels,
        run: module.run.clone(),
    };
    prove(&plan)?;
    Ok(Compiled { plan, texts: kernels.texts })
}

/// What plans of one module in several forms would take; kernels that they share are made once.
pub(crate) struct Sizes<'a> {
    options: &'a PlanOptions,
    kernels: KernelTable,
}

impl<'a> Sizes<'a> {
    pub(crate) fn new(options: &'a PlanOptions) -> Self {
        Self { options, kernels: KernelTable::default() }
    }

    /// Bytes of the arena of `module`'s plan.
    pub(crate) fn arena(&mut self, module: &Module) -> Result<usize> {
        Ok(stage(module, self.options, &mut self.kernels)?.arena_bytes)
    }
}

/// The only stage of `module`'s plan.
fn stage(module: &Module, options: &PlanOptions, kernels: &mut KernelTable) -> Result<Stage> {
    let called: Vec<&str> = module
        .funcs
        .iter()
        .flat_map(|f| &f.nodes)
        .filter_map(|n| if let Op::Call { callee } = &n.op { Some(callee.as_str()) } else { None })
        .collect();
    let programs: Vec<&Func> = module.funcs.iter().filter(|f| !called.contains(&f.name.as_str())).collect();
    let mut names = Names::default();
    let mut named: Vec<Named> = vec![];
    for func in &programs {
        for p in &func.params {
            if names.get(&p.name).is_none() {
                names.add(&p.name);
                let role = BufferRole::from(&p.role);
                let (ty, sharding) = (func.ty(p.value).clone(), p.sharding.clone());
                named.push(Named { name: p.name.clone(), ty, role, sharding });
            }
        }
    }
    let mut setup: Vec<(Op, Vec<usize>, athanor_ir::Loc)> = vec![];
    let mut drafts = vec![];
    for func in &programs {
        let persistent = hoist_tables(func, &mut names, &mut named, &mut setup);
        let mut draft = Draft { func, layout: layout(func, &names, &persistent), steps: vec![] };
        for i in 0..func.nodes.len() {
            let done = draft.layout.view[i] || matches!(func.nodes[i].op, Op::RopeTable { .. });
            if !done {
                lower::node(module, &mut draft, i, kernels, options)?;
            }
        }
        for (value, state) in draft.layout.copies_out.clone() {
            let from = draft.of(value);
            let to = (Place { home: Home::Named(state), offset: 0 }, from.1.clone());
            draft.steps.push(DraftStep {
                action: Action::Op(Op::Reshape),
                inputs: vec![from],
                outputs: vec![to],
                scratch: None,
                node: None,
            });
        }
        drafts.push(draft);
    }
    Ok(assemble(&named, &setup, &drafts))
}

/// Values that depend on nothing are computed once by `setup` and shared between functions.
fn hoist_tables(
    func: &Func,
    names: &mut Names,
    named: &mut Vec<Named>,
    setup: &mut Vec<(Op, Vec<usize>, athanor_ir::Loc)>,
) -> Vec<(ValueId, usize)> {
    let mut persistent = vec![];
    for node in &func.nodes {
        if !matches!(node.op, Op::RopeTable { .. }) {
            continue;
        }
        let known = setup.iter().find(|(op, outs, _)| *op == node.op && named[outs[0]].ty == *func.ty(node.outputs[0]));
        let outs = if let Some((_, outs, _)) = known {
            outs.clone()
        } else {
            let fresh: Vec<usize> = ["cos", "sin"]
                .iter()
                .zip(&node.outputs)
                .map(|(part, value)| {
                    let name = format!("table.{}.{part}", setup.len());
                    let ty = func.ty(*value).clone();
                    let (role, sharding) = (BufferRole::Persistent, Sharding::default());
                    named.push(Named { name: name.clone(), ty, role, sharding });
                    names.add(&name)
                })
                .collect();
            setup.push((node.op.clone(), fresh.clone(), node.loc.clone()));
            fresh
        };
        persistent.extend(node.outputs.iter().copied().zip(outs));
    }
    persistent
}

/// Gives every place its offset: named buffers first, then the locals of each program over one another, since programs
/// run one at a time.
fn assemble(named: &[Named], setup: &[(Op, Vec<usize>, athanor_ir::Loc)], drafts: &[Draft<'_>]) -> Stage {
    let mut buffers: Vec<Buffer> = vec![];
    let mut base = 0;
    for n in named {
        let bytes = n.ty.bytes();
        buffers.push(Buffer {
            name: n.name.clone(),
            dtype: n.ty.dtype,
            dims: n.ty.dims.clone(),
            offset: base,
            bytes,
            role: n.role.clone(),
            sharding: n.sharding.clone(),
            live: None,
        });
        base += align(bytes);
    }
    let mut arena_bytes = base;
    let mut programs = vec![];
    if !setup.is_empty() {
        let step = |(op, outs, loc): &(Op, Vec<usize>, athanor_ir::Loc)| Step {
            action: Action::Op(op.clone()),
            inputs: vec![],
            outputs: outs.clone(),
            loc: loc.clone(),
        };
        programs.push(Program { name: "setup".into(), steps: setup.iter().map(step).collect(), results: vec![] });
    }
    for draft in drafts {
        let end = draft.steps.len();
        let mut lives: Vec<Option<(usize, usize)>> = vec![None; draft.layout.locals.len()];
        let mut touch = |place: &Place, at: usize| {
            if let Home::Local(l) = place.home {
                let life = lives[l].get_or_insert((at, at));
                life.1 = life.1.max(at);
            }
        };
        for (i, s) in draft.steps.iter().enumerate() {
            s.inputs.iter().chain(&s.outputs).chain(&s.scratch).for_each(|(p, _)| touch(p, i));
        }
        for r in &draft.func.results {
            touch(&draft.layout.places[r.value.0 as usize], end);
        }
        let used: Vec<usize> = (0..lives.len()).filter(|l| lives[*l].is_some()).collect();
        let block = |l: &usize| {
            let (first, last) = lives[*l].unwrap_or_default();
            Block { bytes: draft.layout.locals[*l], first, last }
        };
        let blocks: Vec<Block> = used.iter().map(block).collect();
        let (offsets, peak) = place(&blocks);
        arena_bytes = arena_bytes.max(base + peak);
        let mut offset_of = vec![0; lives.len()];
        for (l, o) in used.iter().zip(&offsets) {
            offset_of[*l] = base + o;
        }
        let mut index: HashMap<(Place, TensorType), usize> = HashMap::new();
        let mut buffer = |place: &Place, ty: &TensorType, scratch: bool| {
            if let Home::Named(n) = place.home
                && place.offset == 0
                && named[n].ty == *ty
            {
                return n;
            }
            *index.entry((*place, ty.clone())).or_insert_with(|| {
                let (start, live) = match place.home {
                    Home::Named(n) => (buffers[n].offset, None),
                    Home::Local(l) => (offset_of[l], lives[l]),
                };
                buffers.push(Buffer {
                    name: format!("{}.{}", draft.func.name, buffers.len()),
                    dtype: ty.dtype,
                    dims: ty.dims.clone(),
                    offset: start + place.offset,
                    bytes: ty.bytes(),
                    role: if scratch { BufferRole::Scratch } else { BufferRole::Activation },
                    sharding: Sharding::default(),
                    live,
                });
                buffers.len() - 1
            })
        };
        let mut steps = Vec::with_capacity(draft.steps.len());
        for s in &draft.steps {
            let inputs = s.inputs.iter().map(|(p, t)| buffer(p, t, false)).collect();
            let mut outputs: Vec<usize> = s.outputs.iter().map(|(p, t)| buffer(p, t, false)).collect();
            outputs.extend(s.scratch.iter().map(|(p, t)| buffer(p, t, true)));
            let loc = s.node.map(|n| draft.func.nodes[n].loc.clone()).unwrap_or_default();
            steps.push(Step { action: s.action.clone(), inputs, outputs, loc });
        }
        let result = |r: &athanor_ir::FuncResult| {
            let (place, ty) = draft.of(r.value);
            (r.name.clone(), buffer(&place, &ty, false))
        };
        let results = draft.func.results.iter().map(result).collect();
        programs.push(Program { name: draft.func.name.clone(), steps, results });
    }
    Stage { arena_bytes, buffers, programs }
}
