//! From the last module to the plan: memory for every value, a step for every node, a kernel for every distinct step.

pub mod arena;
mod assemble;
mod collectives;
mod copies;
mod experts;
mod grouped;
pub mod layout;
mod lower;
mod matrix;
mod parts;
mod pipeline;
mod reduce;
mod repeat;
mod slices;
mod streams;

use crate::codegen::llvm::KernelText;
use crate::prove::prove;
use assemble::assemble;
use athanor_ir::diag::Result;
use athanor_ir::func::{Func, Role, ValueId};
use athanor_ir::memory::Memory;
use athanor_ir::module::Module;
use athanor_ir::op::Op;
use athanor_ir::pipeline::func_of_stage;
use athanor_ir::plan::{Action, BufferRole, CPU, Kernel, Plan, SIM, Stage, Target, VERSION};
use athanor_ir::sharding::Sharding;
use athanor_ir::target::CpuLevel;
use athanor_ir::types::{DType, TensorType};
use layout::{Home, Layout, Local, Names, Place, layout};
use parts::Parts;
use pipeline::Order;
use std::borrow::Cow;
use std::collections::HashMap;
use streams::{Beside, beside};

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

    /// The symbol of the kernel for `key`, the same in every plan.
    pub(crate) fn symbol(stem: &str, key: &str) -> String {
        format!("{stem}_{}", &blake3::hash(key.as_bytes()).to_hex()[..16])
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
    /// The programs that it becomes.
    pub parts: Parts,
    /// Step behind the last one of each part.
    pub ends: Vec<usize>,
    /// Steps of the communication stream.
    pub beside: Beside,
}

impl Draft<'_> {
    /// Place and type of `value`.
    pub(crate) fn of(&self, value: ValueId) -> (Place, TensorType) {
        (self.layout.places[value.0 as usize], self.func.ty(value).clone())
    }

    /// A block for one step or a few, of `ty`.
    pub(crate) fn temporary(&mut self, ty: TensorType) -> (Place, TensorType) {
        self.layout.locals.push(Local { bytes: ty.bytes(), memory: Memory::Device });
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
    memory: Memory,
}

/// Makes the plan of a module, and proves that its ranks fit together.
///
/// # Errors
/// What a generator reports; [`crate::prove::UNMATCHED`].
pub fn build(module: &Module, options: &PlanOptions) -> Result<Compiled> {
    let mut kernels = KernelTable::default();
    let stages = match &module.run.pipeline {
        Some(pipeline) => {
            let order = Order::of(module, pipeline)?;
            (0..pipeline.stages()).map(|s| order.stage(module, s, options, &mut kernels)).collect::<Result<_>>()?
        }
        None => vec![stage(module, options, &mut kernels)?],
    };
    let plan = Plan {
        version: VERSION,
        config_hash: options.config_hash.clone(),
        compiler: concat!("athanor ", env!("CARGO_PKG_VERSION")).to_owned(),
        model: module.name.clone(),
        target: Target { device: CPU.into(), cpu: options.level, threads: options.threads },
        mesh: module.mesh.clone(),
        stages,
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

    /// Bytes of the device's arena in `module`'s plan, of stage `of` if it has a pipeline.
    pub(crate) fn arena(&mut self, module: &Module, of: Option<usize>) -> Result<usize> {
        let stage = match (&module.run.pipeline, of) {
            (Some(pipeline), Some(of)) => {
                Order::of(module, pipeline)?.stage(module, of, self.options, &mut self.kernels)
            }
            _ => stage(module, self.options, &mut self.kernels),
        };
        Ok(stage?.arena_bytes)
    }
}

/// The only stage of `module`'s plan.
fn stage(module: &Module, options: &PlanOptions, kernels: &mut KernelTable) -> Result<Stage> {
    Ok(assemble(&contents(module, &called(module, None), options, kernels)?))
}

/// Functions of `module` that become programs: those that are not called, of one stage if there are several.
fn called(module: &Module, stage: Option<usize>) -> Vec<Cow<'_, Func>> {
    let called: Vec<&str> = module
        .funcs
        .iter()
        .flat_map(|f| &f.nodes)
        .filter_map(
            |n| if let Op::Call { callee } | Op::Repeat { callee } = &n.op { Some(callee.as_str()) } else { None },
        )
        .collect();
    let own = |f: &&Func| stage.is_none_or(|s| func_of_stage(&f.name).is_some_and(|(of, _)| of == s));
    let programs = module.funcs.iter().filter(|f| !called.contains(&f.name.as_str())).filter(own);
    programs.map(Cow::Borrowed).collect()
}

/// What a stage holds, before offsets are known.
struct Contents<'a> {
    named: Vec<Named>,
    setup: Vec<(Op, Vec<usize>, athanor_ir::Loc)>,
    drafts: Vec<Draft<'a>>,
}

/// Named buffers and steps of `programs`.
fn contents<'a>(
    module: &Module,
    programs: &'a [Cow<'a, Func>],
    options: &PlanOptions,
    kernels: &mut KernelTable,
) -> Result<Contents<'a>> {
    let mut names = Names::default();
    let mut named: Vec<Named> = vec![];
    for func in programs {
        for p in func.params.iter().filter(|p| p.role != Role::Handed) {
            if names.get(&p.name).is_none() {
                names.add(&p.name);
                let role = BufferRole::from(&p.role);
                let (ty, sharding, memory) = (func.ty(p.value).clone(), p.sharding.clone(), p.memory);
                named.push(Named { name: p.name.clone(), ty, role, sharding, memory });
            }
        }
    }
    let mut setup = vec![];
    let mut drafts = vec![];
    for func in programs {
        let persistent = hoist_tables(func, &mut names, &mut named, &mut setup);
        let parts = Parts::of(func, module.run.pipeline.as_ref());
        let layout = layout(func, &names, &persistent);
        let mut draft = Draft { func, layout, steps: vec![], parts, ends: vec![], beside: Beside::new() };
        for i in 0..func.nodes.len() {
            if draft.parts.ends_before(i) {
                end_part(&mut draft, i);
            }
            let done = draft.layout.view[i] || matches!(func.nodes[i].op, Op::RopeTable { .. } | Op::Handover { .. });
            if !done {
                lower::node(module, &mut draft, i, kernels, options)?;
            }
        }
        while draft.ends.len() < draft.parts.count() {
            end_part(&mut draft, func.nodes.len());
        }
        if !options.reference && module.mesh.ranks() > 1 {
            draft.beside = beside(&mut draft);
        }
        drafts.push(draft);
    }
    Ok(Contents { named, setup, drafts })
}

/// Ends a part of `draft` before node `next`: what it leaves for a state and could not compute there is copied.
fn end_part(draft: &mut Draft<'_>, next: usize) {
    let defs = draft.func.defs();
    let copied = std::mem::take(&mut draft.layout.copies_out);
    let last = draft.ends.len() + 1 == draft.parts.count();
    let (now, later): (Vec<_>, Vec<_>) =
        copied.into_iter().partition(|(value, _)| last || defs[value.0 as usize].is_some_and(|d| d < next));
    for (value, state) in now {
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
    draft.layout.copies_out = later;
    draft.ends.push(draft.steps.len());
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
                    named.push(Named { name: name.clone(), ty, role, sharding, memory: Memory::Device });
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
