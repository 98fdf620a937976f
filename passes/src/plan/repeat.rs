//! A function that runs again and again: its steps once, and one that goes back to the first of them.

use super::layout::{Home, Names, Place, layout};
use super::parts::Parts;
use super::streams::Beside;
use super::{Draft, DraftStep, KernelTable, PlanOptions, lower};
use athanor_ir::diag::Result;
use athanor_ir::func::Func;
use athanor_ir::module::Module;
use athanor_ir::op::{F64, Op};
use athanor_ir::plan::Action;
use athanor_ir::types::{DType, TensorType};

/// Appends the steps of `nn.repeat`, node `i` of `draft`, which repeats `callee`.
///
/// Sums lie where the node's results do, and are zeros at first. Values of the callee share memory with others of the program, by
/// the steps at which they live.
pub(super) fn lower(
    module: &Module,
    draft: &mut Draft<'_>,
    i: usize,
    callee: &Func,
    kernels: &mut KernelTable,
    options: &PlanOptions,
) -> Result<()> {
    let node = &draft.func.nodes[i];
    let (inputs, sums) = (node.inputs.clone(), node.outputs.clone());
    let round = draft.temporary(TensorType::scalar(DType::I32));
    draft.push(i, Action::Op(Op::Constant { value: F64(0.0) }), vec![], vec![round.clone()]);
    for sum in &sums {
        let sum = draft.of(*sum);
        lower::zeros(draft, i, sum, kernels, options)?;
    }
    // Parameters have names, and with them places that nothing else takes over but the sums themselves.
    let mut names = Names::default();
    callee.params.iter().for_each(|p| _ = names.add(&p.name));
    let given: Vec<Place> =
        std::iter::once(round.0).chain(sums.iter().chain(&inputs[1..]).map(|v| draft.of(*v).0)).collect();
    let layout = layout(callee, &names, &[]);
    let mut body =
        Draft { func: callee, layout, steps: vec![], parts: Parts::default(), ends: vec![], beside: Beside::new() };
    for n in (0..callee.nodes.len()).filter(|n| !body.layout.view[*n]).collect::<Vec<_>>() {
        lower::node(module, &mut body, n, kernels, options)?;
    }
    for (value, state) in std::mem::take(&mut body.layout.copies_out) {
        let from = body.of(value);
        let to = (Place { home: Home::Named(state), offset: 0 }, from.1.clone());
        body.push(i, Action::Op(Op::Reshape), vec![from], vec![to]);
    }
    let (first, behind) = (draft.steps.len(), draft.layout.locals.len());
    draft.layout.locals.extend(body.layout.locals);
    let outside = |(place, ty): (Place, TensorType)| match place.home {
        Home::Named(p) => (Place { offset: given[p].offset + place.offset, ..given[p] }, ty),
        Home::Local(l) => (Place { home: Home::Local(behind + l), ..place }, ty),
    };
    let all = |list: Vec<(Place, TensorType)>| list.into_iter().map(outside).collect();
    for step in body.steps {
        let action = match step.action {
            Action::Again { first: inner } => Action::Again { first: first + inner },
            action => action,
        };
        let (inputs, outputs) = (all(step.inputs), all(step.outputs));
        draft.steps.push(DraftStep { action, inputs, outputs, scratch: step.scratch.map(outside), node: Some(i) });
    }
    let rounds = draft.of(inputs[0]);
    draft.push(i, Action::Again { first }, vec![rounds, round.clone()], vec![round]);
    Ok(())
}
