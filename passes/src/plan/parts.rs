//! The programs that one function becomes: one, or for a position of a pipeline the forward, the backward and the weights' part.

use athanor_ir::func::{Func, FuncResult, Param, Role, ValueId};
use athanor_ir::op::{Binary, Op};
use athanor_ir::pipeline::{Part, Pipeline, handed, is_micro};

/// Where the parts of a function end, and what passes between its position and others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// Nodes at which parts after the first begin.
    begins: Vec<usize>,
    /// What passes, for a position of a pipeline.
    pub crossing: Option<Crossing>,
}

/// Values that pass between a position and its neighbours.
#[derive(Debug, Clone)]
pub(crate) struct Crossing {
    /// Chunk of the stage.
    pub chunk: usize,
    pub arrives: Vec<ValueId>,
    pub leaves: Vec<ValueId>,
    pub returns: Vec<ValueId>,
    pub goes_back: Vec<ValueId>,
}

/// The parts, in order.
const PARTS: [Part; 3] = [Part::F, Part::B, Part::W];

impl Parts {
    /// The parts of `func`, which is ordered by [`ordered`] if it belongs to a pipeline.
    pub(crate) fn of(func: &Func, pipeline: Option<&Pipeline>) -> Self {
        let handover = func.nodes.iter().position(|n| matches!(n.op, Op::Handover { .. }));
        let (Some(pipeline), Some(chunk), Some(h)) = (pipeline, is_micro(&func.name), handover) else {
            return Self::default();
        };
        let node = &func.nodes[h];
        let last = matches!(node.op, Op::Handover { last: true });
        let of_params = (0..).map_while(|i| func.find_param(&handed(i)).map(|p| p.value)).collect();
        let of_results =
            (0..).map_while(|i| func.find_result(&format!("grad.{}", handed(i))).map(|r| r.value)).collect();
        let (leaves, returns) = if last { (vec![], vec![]) } else { (node.inputs.clone(), node.outputs.clone()) };
        let crossing = Crossing { chunk, arrives: of_params, leaves, returns, goes_back: of_results };
        let mut begins = vec![h];
        if pipeline.schedule.splits() {
            let backward = backward(func);
            let weights = (h + 1..func.nodes.len()).find(|i| !backward[*i]);
            begins.push(weights.unwrap_or(func.nodes.len()));
        }
        Self { begins, crossing: Some(crossing) }
    }

    /// Number of parts.
    pub(crate) fn count(&self) -> usize {
        self.begins.len() + 1
    }

    /// Whether a part ends before node `node`.
    pub(crate) fn ends_before(&self, node: usize) -> bool {
        self.begins.contains(&node)
    }

    /// The part that node `node` belongs to; `None` is a parameter, which results as it is in the last one.
    pub(crate) fn part(&self, node: Option<usize>) -> usize {
        node.map_or(self.begins.len(), |n| self.begins.iter().filter(|b| **b <= n).count())
    }

    /// Name of the program of part `part` of a function called `name`.
    pub(crate) fn program(&self, part: usize, name: &str) -> String {
        match &self.crossing {
            Some(c) => PARTS[part].program(c.chunk),
            None => athanor_ir::pipeline::func_of_stage(name).map_or(name, |(_, plain)| plain).to_owned(),
        }
    }
}

/// `func` with its forward part first, and where weights' gradients are split off, those last.
///
/// The forward part is what the next position or the loss reads of it, and what is counted there. Where the backward part is
/// split it is what makes the gradients that go back, at the first position that of the embedding's result; a step that is
/// needed for both is in it.
pub(crate) fn ordered(func: &Func, pipeline: &Pipeline) -> Func {
    let forward = forward(func);
    let handover = |i: &usize| matches!(func.nodes[*i].op, Op::Handover { .. });
    let backward = if pipeline.schedule.splits() { backward(func) } else { vec![true; func.nodes.len()] };
    let all = || 0..func.nodes.len();
    let order = all()
        .filter(|i| forward[*i])
        .chain(all().filter(handover))
        .chain(all().filter(|i| !forward[*i] && !handover(i) && backward[*i]))
        .chain(all().filter(|i| !forward[*i] && !handover(i) && !backward[*i]));
    Func { nodes: order.map(|i| func.nodes[i].clone()).collect(), ..func.clone() }
}

/// Nodes of the forward part: what the handover reads, what is counted over micro-batches or kept for slices without it, and what
/// of these values goes to the host.
fn forward(func: &Func) -> Vec<bool> {
    let mut after = vec![false; func.types.len()];
    for node in &func.nodes {
        if matches!(node.op, Op::Handover { .. }) || node.inputs.iter().any(|v| after[v.0 as usize]) {
            node.outputs.iter().for_each(|v| after[v.0 as usize] = true);
        }
    }
    let handed = func.nodes.iter().filter(|n| matches!(n.op, Op::Handover { .. })).flat_map(|n| n.inputs.clone());
    let kept = |p: &Param| matches!(p.role, Role::Grad | Role::Cache);
    let counts = |name: &str| func.find_param(name).is_some_and(kept) && !name.starts_with("grad.");
    let counted = func.results.iter().filter(|r| counts(&r.name) && !after[r.value.0 as usize]);
    let mut forward = func.needed_for(handed.chain(counted.map(|r| r.value)));
    // What goes to the host does so in the program that made it, else it would be kept until the next one.
    let defs = func.defs();
    for (i, node) in func.nodes.iter().enumerate().filter(|(_, n)| n.op == Op::ToHost) {
        forward[i] = node.inputs.iter().all(|v| defs[v.0 as usize].is_none_or(|d| forward[d]));
    }
    forward
}

/// Values that are products of the logits' gradients, or sums of such with others.
fn of_logits(func: &Func) -> Vec<bool> {
    let (mut gradient, mut product) = (vec![false; func.types.len()], vec![false; func.types.len()]);
    for node in &func.nodes {
        let any = |of: &[bool]| node.inputs.iter().any(|v| of[v.0 as usize]);
        let sums = matches!(node.op, Op::Binary(Binary::Add) | Op::Reshape | Op::Cast | Op::Collective(_))
            || node.op.addend().and_then(|i| node.inputs.get(i)).is_some_and(|v| product[v.0 as usize]);
        let of = matches!(node.op, Op::CrossEntropyGrad | Op::PartEntropyGrad);
        let (of, sum) = (of, any(&gradient) || sums && any(&product));
        for v in &node.outputs {
            (gradient[v.0 as usize], product[v.0 as usize]) = (of, sum);
        }
    }
    product
}

/// Nodes that make what goes back, or results other than weights' gradients.
///
/// The gradient of the output layer is not put off: the logits would have to be kept until then. Nor is what is summed up in
/// rounds, which make all gradients of a layer's experts at once.
fn backward(func: &Func) -> Vec<bool> {
    let goes_back = format!("grad.{}", handed(0).trim_end_matches('0'));
    let (of_logits, defs) = (of_logits(func), func.defs());
    let in_rounds = |v: &ValueId| defs[v.0 as usize].is_some_and(|d| matches!(func.nodes[d].op, Op::Repeat { .. }));
    let now = |r: &&FuncResult| {
        !r.name.starts_with("grad.")
            || r.name.starts_with(&goes_back)
            || of_logits[r.value.0 as usize]
            || defs[r.value.0 as usize].is_some_and(|d| func.nodes[d].inputs.iter().any(in_rounds))
    };
    let results = func.results.iter().filter(now);
    let embedded = func.nodes.iter().filter(|n| matches!(n.op, Op::EmbedGrad { .. })).flat_map(|n| n.inputs.clone());
    func.needed_for(results.map(|r| r.value).chain(embedded))
}
