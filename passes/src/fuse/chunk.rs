//! The vocabulary product, the loss and their gradients a block of tokens at a time, so that the logits of all tokens
//! never exist.

use athanor_ir::collective::CollectiveKind;
use athanor_ir::func::{Builder, Func, Node, ValueId};
use athanor_ir::op::Op;
use athanor_ir::signature::parse_einsum;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Logits of one block take at most this many bytes (unless one token takes more).
pub(super) const BLOCK_BYTES: usize = 128 << 20;

/// The nodes of a loss over the vocabulary, with its gradients.
struct Loss {
    logits: usize,
    /// The loss and what is computed of it for each token by itself: with a part of the vocabulary on each rank that is
    /// what makes of the parts' logarithms that of all.
    rows: Vec<usize>,
    grad: usize,
    dx: usize,
    dw: usize,
}

/// Splits every loss of `func` over `blocks` blocks of tokens, or as many as keep a block of logits within
/// [`BLOCK_BYTES`]; leaves a loss alone that is no such loss or for which one block is enough.
pub(super) fn split_losses(func: &Func, blocks: Option<usize>) -> Func {
    let entropy = |n: &&Node| matches!(n.op, Op::CrossEntropy | Op::PartEntropy);
    let losses = func.nodes.iter().filter(entropy).map(|n| n.outputs[0]);
    losses.fold(func.clone(), |func, loss| split(&func, loss, blocks))
}

/// Splits the loss with the result `loss`.
fn split(func: &Func, loss: ValueId, blocks: Option<usize>) -> Func {
    let entropy = func.nodes.iter().position(|n| n.outputs.first() == Some(&loss));
    let Some(found) = entropy.and_then(|i| find(func, i)) else { return func.clone() };
    let logits = func.ty(func.nodes[found.logits].outputs[0]);
    let vocab = logits.dims[logits.rank() - 1];
    let tokens = logits.elements() / vocab;
    let most = BLOCK_BYTES.div_ceil(vocab * logits.dtype.bytes()).max(1);
    let wanted = blocks.unwrap_or_else(|| tokens.div_ceil(most));
    // Blocks of equal size, so that they share kernels.
    let Some(blocks) = (wanted.max(1)..=tokens).find(|b| tokens.is_multiple_of(*b)) else { return func.clone() };
    if blocks == 1 { func.clone() } else { rebuild(func, &found, blocks, tokens) }
}

/// The nodes behind `loss`, in order, whose operands all come from it or from one another and that treat each token by itself.
fn rows(func: &Func, loss: usize) -> Vec<usize> {
    let mut made = vec![false; func.types.len()];
    let mut found = vec![];
    for (i, node) in func.nodes.iter().enumerate().skip(loss) {
        let by_token = match &node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Cast => true,
            Op::Collective(c) => matches!(c.kind, CollectiveKind::AllReduce { .. }),
            _ => false,
        };
        if i == loss || by_token && node.inputs.iter().all(|v| made[v.0 as usize]) {
            node.outputs.iter().for_each(|v| made[v.0 as usize] = true);
            found.push(i);
        }
    }
    found
}

fn find(func: &Func, loss: usize) -> Option<Loss> {
    let defs = func.defs();
    let users = |v: ValueId| {
        let by: Vec<usize> = (0..func.nodes.len()).filter(|i| func.nodes[*i].inputs.contains(&v)).collect();
        (!func.results.iter().any(|r| r.value == v)).then_some(by)
    };
    let logits_value = func.nodes[loss].inputs[0];
    let logits = defs[logits_value.0 as usize]?;
    let gradient = |n: &Node| matches!(n.op, Op::CrossEntropyGrad | Op::PartEntropyGrad) && n.inputs[0] == logits_value;
    let grad = func.nodes.iter().position(gradient)?;
    let rows = rows(func, loss);
    let of_rows = |v: ValueId| defs[v.0 as usize].is_some_and(|d| rows.contains(&d));
    let only = |v: ValueId, mut expected: Vec<usize>| {
        expected.sort_unstable();
        users(v).is_some_and(|by| by == expected)
    };
    if !only(logits_value, vec![loss, grad]) || !of_rows(func.nodes[grad].inputs[2]) {
        return None;
    }
    let product = &func.nodes[logits];
    let [x, w] = product.inputs[..] else { return None };
    let Op::Einsum { spec } = &product.op else { return None };
    let [lx, lw, lo] = parse_einsum(spec).ok()?;
    let (h, v) = (*lx.last()?, *lo.last()?);
    if lx[..lx.len() - 1] != lo[..lo.len() - 1] || (lw != [v, h] && lw != [h, v]) {
        return None;
    }
    let dlogits = func.nodes[grad].outputs[0];
    let by = users(dlogits)?;
    // The product of the logits' gradient with one operand that is the gradient of the other.
    let product_of = |other: (ValueId, &[char]), gives: &[char]| {
        by.iter().copied().find(|i| contracts(&func.nodes[*i], [(dlogits, &lo), other], gives))
    };
    let (dx, dw) = (product_of((w, &lw), &lx)?, product_of((x, &lx), &lw)?);
    let same_labels = |v: ValueId| func.ty(v).dims == func.ty(logits_value).dims[..func.ty(logits_value).rank() - 1];
    let (labels, drow) = (func.nodes[grad].inputs[1], func.nodes[grad].inputs[3]);
    let independent = !depends(func, &defs, drow, loss) && labels == func.nodes[loss].inputs[1];
    let fits = by.len() == 2 && dx != dw && same_labels(drow) && independent;
    fits.then_some(Loss { logits, rows, grad, dx, dw })
}

/// Whether `node` is the plain product of the two values, in either order, whose labels and those of the result are the
/// given ones under other names.
fn contracts(node: &Node, operands: [(ValueId, &[char]); 2], gives: &[char]) -> bool {
    let Op::Einsum { spec } = &node.op else { return false };
    let Ok([a, b, out]) = parse_einsum(spec) else { return false };
    let same = |first: (ValueId, &[char]), second: (ValueId, &[char])| {
        if node.inputs[..] != [first.0, second.0] {
            return false;
        }
        let mut names: BTreeMap<char, char> = BTreeMap::new();
        let fits = [(&a, first.1), (&b, second.1), (&out, gives)].into_iter().all(|(found, wanted)| {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| *names.entry(*f).or_insert(*w) == *w)
        });
        // Two names for one label would be a sum over each of them.
        fits && names.values().collect::<BTreeSet<_>>().len() == names.len()
    };
    same(operands[0], operands[1]) || same(operands[1], operands[0])
}

/// Whether `v` depends on node `on`.
fn depends(func: &Func, defs: &[Option<usize>], v: ValueId, on: usize) -> bool {
    let mut stack = vec![v];
    let mut seen = vec![false; func.nodes.len()];
    while let Some(v) = stack.pop() {
        let Some(d) = defs[v.0 as usize] else { continue };
        if d == on {
            return true;
        }
        if !std::mem::replace(&mut seen[d], true) {
            stack.extend(&func.nodes[d].inputs);
        }
    }
    false
}

fn rebuild(func: &Func, l: &Loss, blocks: usize, tokens: usize) -> Func {
    let parts: Vec<usize> = [l.logits, l.grad, l.dx, l.dw].iter().chain(&l.rows).copied().collect();
    let node = |i: usize| &func.nodes[i];
    let (x, w) = (node(l.logits).inputs[0], node(l.logits).inputs[1]);
    let labels = node(l.grad).inputs[1];
    let drow = node(l.grad).inputs[3];
    let [h, v] = [x, node(l.logits).outputs[0]].map(|t| func.ty(t).dims[func.ty(t).rank() - 1]);
    let transposed = func.ty(w).dims != [v, h];
    let mut out = func.clone();
    out.nodes.clear();
    // Everything the loss does not feed comes first: what its row factors need may stand behind it.
    let mut late = vec![false; func.nodes.len()];
    let mut made_late = vec![false; func.types.len()];
    for (i, n) in func.nodes.iter().enumerate() {
        late[i] = parts.contains(&i) || n.inputs.iter().any(|u| made_late[u.0 as usize]);
        if late[i] {
            n.outputs.iter().for_each(|o| made_late[o.0 as usize] = true);
        }
    }
    out.nodes.extend((0..func.nodes.len()).filter(|i| !late[*i]).map(|i| node(i).clone()));
    let block = tokens / blocks;
    let loc = node(l.logits).loc.clone();
    let mut b = Builder::new(&mut out, loc);
    let flat_x = b.reshape(x, &[tokens, h]);
    let flat_labels = b.reshape(labels, &[tokens]);
    let flat_drow = b.reshape(drow, &[tokens]);
    // What the rest of the program reads of the loss, with its parts.
    let read: Vec<&ValueId> =
        (0..func.nodes.len()).filter(|i| !parts.contains(i)).flat_map(|i| &node(i).inputs).collect();
    let left = |v: &ValueId| read.contains(&v) || func.results.iter().any(|r| r.value == *v);
    let mut losses: BTreeMap<ValueId, Vec<ValueId>> =
        l.rows.iter().flat_map(|i| &node(*i).outputs).filter(|v| left(v)).map(|v| (*v, vec![])).collect();
    let mut dxs = vec![];
    let mut dw: Option<ValueId> = None;
    let logits_dtype = func.ty(node(l.logits).outputs[0]).dtype;
    let dlogits_dtype = func.ty(node(l.grad).outputs[0]).dtype;
    let (dx_ty, dw_ty) = (func.ty(node(l.dx).outputs[0]).clone(), func.ty(node(l.dw).outputs[0]).clone());
    for k in 0..blocks {
        let start = k * block;
        let xk = b.slice(flat_x, 0, start, block);
        let lk = b.slice(flat_labels, 0, start, block);
        let dk = b.slice(flat_drow, 0, start, block);
        let push = |b: &mut Builder<'_>, op: Op, ins: &[ValueId], ty: athanor_ir::TensorType| {
            let loc = b.loc.clone();
            b.func.push(op, ins, vec![ty], &loc)[0]
        };
        let einsum = |spec: &str| Op::Einsum { spec: spec.to_owned() };
        let logits_ty = athanor_ir::TensorType::new(logits_dtype, [block, v]);
        let spec = if transposed { "ah,hv->av" } else { "ah,vh->av" };
        let logits = push(&mut b, einsum(spec), &[xk, w], logits_ty.clone());
        let mut own: HashMap<ValueId, ValueId> =
            HashMap::from([(node(l.logits).outputs[0], logits), (node(l.grad).inputs[1], lk)]);
        for n in l.rows.iter().map(|i| node(*i)) {
            let inputs: Vec<ValueId> = n.inputs.iter().map(|v| own[v]).collect();
            let types = n.outputs.iter().map(|v| func.ty(*v).with_dims([block])).collect();
            let made = b.func.push(n.op.clone(), &inputs, types, &n.loc);
            own.extend(n.outputs.iter().copied().zip(made));
        }
        losses.iter_mut().for_each(|(v, blocks)| blocks.push(own[v]));
        let inputs = [logits, lk, own[&node(l.grad).inputs[2]], dk];
        let dlogits = push(&mut b, node(l.grad).op.clone(), &inputs, logits_ty.with_dtype(dlogits_dtype));
        let spec = if transposed { "av,hv->ah" } else { "av,vh->ah" };
        dxs.push(push(&mut b, einsum(spec), &[dlogits, w], dx_ty.with_dims([block, h])));
        let (spec, mut ins) =
            if transposed { ("ah,av->hv", vec![xk, dlogits]) } else { ("av,ah->vh", vec![dlogits, xk]) };
        ins.extend(dw);
        dw = Some(push(&mut b, einsum(spec), &ins, dw_ty.clone()));
    }
    let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
    for (old, blocks) in losses.into_iter().chain([(node(l.dx).outputs[0], dxs)]) {
        let all = b.many(Op::Concat { dim: 0 }, &blocks)[0];
        renamed.insert(old, b.reshape(all, &func.ty(old).dims));
    }
    renamed.extend(dw.map(|d| (node(l.dw).outputs[0], d)));
    let rename = |v: &ValueId| *renamed.get(v).unwrap_or(v);
    let rest = (0..func.nodes.len()).filter(|i| late[*i] && !parts.contains(i));
    out.nodes.extend(rest.map(|i| {
        let n: &Node = node(i);
        Node { inputs: n.inputs.iter().map(rename).collect(), ..n.clone() }
    }));
    for r in &mut out.results {
        r.value = rename(&r.value);
    }
    out
}
