//! Sums of matrix products become one accumulating product.

use athanor_ir::func::{Func, Role};
use athanor_ir::op::{Binary, Op};

/// `add(p, einsum(a, b))` with p used nowhere else and itself a product or an accumulated gradient becomes
/// `einsum(a, b, p)`: the product is added where p lies. The same goes for products of experts.
pub(super) fn accumulate(func: &Func) -> Func {
    let uses = func.use_counts();
    let defs = func.defs();
    let mut out = func.clone();
    for i in 0..func.nodes.len() {
        let node = &func.nodes[i];
        if node.op != Op::Binary(Binary::Add) {
            continue;
        }
        for (acc, product) in [(0, 1), (1, 0)].map(|(a, p)| (node.inputs[a], node.inputs[p])) {
            let Some(p) = defs[product.0 as usize] else { continue };
            let product_op = &out.nodes[p];
            let plain = product_op.op.addend() == Some(product_op.inputs.len());
            let replaceable = match defs[acc.0 as usize] {
                Some(d) => out.nodes[d].op.addend().is_some() && d < p,
                None => func.params.iter().any(|q| q.value == acc && q.role == Role::Grad),
            };
            let once = uses[acc.0 as usize] == 1 && uses[product.0 as usize] == 1;
            if plain && replaceable && once && func.ty(acc) == func.ty(product) {
                // The product's node takes over the sum's result; the old sum is left without uses.
                out.nodes[p].inputs.push(acc);
                let result = node.outputs[0];
                let old = std::mem::replace(&mut out.nodes[p].outputs[0], result);
                out.nodes[i].op = Op::Reshape;
                out.nodes[i].inputs = vec![result];
                out.nodes[i].outputs = vec![old];
                break;
            }
        }
    }
    out.without_dead_nodes()
}
