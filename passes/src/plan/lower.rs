//! One node to steps: a library product, a generated kernel, or the reference op.

use super::collectives;
use super::copies;
use super::experts;
use super::grouped::as_grouped;
use super::layout::Place;
use super::matrix::{Batch, as_gemm};
use super::reduce;
use super::repeat;
use super::slices;
use super::{Draft, KernelTable, PlanOptions};
use crate::codegen::attention::{self, AttentionSpec};
use crate::codegen::cross_entropy::{self, CrossEntropySpec, GradTo};
use crate::codegen::embed::{self, EmbedSpec};
use crate::codegen::rope::{self, Pairing, RopeSpec};
use crate::codegen::simd::Float;
use crate::codegen::{Generated, gemm, loops, squares};
use athanor_ir::diag::Result;
use athanor_ir::func::{Func, Node, Role};
use athanor_ir::module::Module;
use athanor_ir::op::{F64, Op, ReduceKind};
use athanor_ir::plan::{Action, GemmSpec, Kernel, KernelKind};
use athanor_ir::target::CpuLevel;
use athanor_ir::types::{DType, TensorType};

/// Values below this many elements are computed by the reference op: a kernel launch costs more.
const SMALL: usize = 64;

/// A node with its operands and results in memory.
pub(super) struct Site {
    pub index: usize,
    pub inputs: Vec<(Place, TensorType)>,
    pub outputs: Vec<(Place, TensorType)>,
    flops: u64,
    bytes: u64,
}

impl Site {
    /// A part of a node that moves `from` to `to`.
    pub fn moves(index: usize, from: (Place, TensorType), to: (Place, TensorType)) -> Self {
        let bytes = (from.1.bytes() + to.1.bytes()) as u64;
        Self { index, inputs: vec![from], outputs: vec![to], flops: 0, bytes }
    }

    pub fn types(side: &[(Place, TensorType)]) -> Vec<TensorType> {
        side.iter().map(|x| x.1.clone()).collect()
    }
}

/// Appends the steps of node `i` to `draft`.
pub(crate) fn node(
    module: &Module,
    draft: &mut Draft<'_>,
    i: usize,
    kernels: &mut KernelTable,
    options: &PlanOptions,
) -> Result<()> {
    let node = &draft.func.nodes[i];
    if let Op::Repeat { callee } = &node.op {
        return match module.func(callee) {
            Some(callee) => repeat::lower(module, draft, i, callee, kernels, options),
            None => Ok(()),
        };
    }
    let inputs: Vec<_> = node.inputs.iter().map(|v| draft.of(*v)).collect();
    let outputs: Vec<_> = node.outputs.iter().map(|v| draft.of(*v)).collect();
    let (ins, outs) = (Site::types(&inputs), Site::types(&outputs));
    let callee = if let Op::Call { callee } = &node.op { module.func(callee) } else { None };
    let flops = callee.map_or_else(|| node.op.flops(&ins, &outs), func_flops);
    let site = Site { index: i, flops, bytes: node.op.bytes(&ins, &outs), inputs, outputs };
    if let Op::Collective(c) = &node.op {
        return collectives::lower(draft, kernels, options, &site, c);
    }
    if options.reference {
        draft.push(i, Action::Op(node.op.clone()), site.inputs, site.outputs);
        return Ok(());
    }
    let done = match (&node.op, callee) {
        (op, _) if op.attend().is_some() => attend(draft, kernels, options, &site, op)?,
        (Op::Einsum { spec }, _) => product(draft, kernels, options, &site, spec)?,
        (Op::GroupedEinsum { spec }, _) => grouped(draft, kernels, options, &site, spec)?,
        (Op::Rope { .. } | Op::Embed | Op::EmbedGrad { .. }, _) => positions(draft, kernels, options, &site, &node.op)?,
        (Op::CrossEntropy | Op::CrossEntropyGrad | Op::PartEntropy | Op::PartEntropyGrad, _) => {
            loss(draft, kernels, options, &site, &node.op)?
        }
        (
            Op::Route { .. }
            | Op::Pick
            | Op::PickGrad { .. }
            | Op::Histogram { .. }
            | Op::Assign { .. }
            | Op::Dispatch { .. }
            | Op::Combine
            | Op::CombineDot,
            _,
        ) => experts::lower(draft, kernels, options, &site, &node.op)?,
        (Op::SumSquares, _) => sum_squares(draft, kernels, options, &site)?,
        (Op::ToHost | Op::FromHost | Op::Rounds { .. } | Op::Portion { .. }, _) => false,
        (_, Some(func)) => group(draft, kernels, options, &site, func)?,
        _ if outs.iter().all(|t| t.elements() < SMALL) => false,
        (Op::Slice { .. } | Op::Concat { .. } | Op::Transpose { .. } | Op::Broadcast { .. }, _) => {
            copies::lower(draft, kernels, options, &site, &node.op)?
        }
        (Op::KeepSlice { .. } | Op::OwnSlice { .. } | Op::SumSlices { .. }, _) => {
            slices::lower(draft, kernels, options, &site, &node.op)?
        }
        (Op::Reduce { kind, dims }, None) => {
            let alone = alone(node, &node.op, &ins, &outs);
            group(draft, kernels, options, &site, &alone)?
                || reduce::lower(draft, kernels, options, &site, (*kind, dims))?
        }
        (op, None) => group(draft, kernels, options, &site, &alone(node, op, &ins, &outs))?,
    };
    if !done {
        draft.push(i, Action::Op(node.op.clone()), site.inputs, site.outputs);
    }
    Ok(())
}

/// Appends what makes every element of `to` zero, for node `i`.
pub(super) fn zeros(
    draft: &mut Draft<'_>,
    i: usize,
    to: (Place, TensorType),
    kernels: &mut KernelTable,
    options: &PlanOptions,
) -> Result<()> {
    let (op, outs) = (Op::Constant { value: F64(0.0) }, vec![to.1.clone()]);
    let site = Site { index: i, flops: 0, bytes: to.1.bytes() as u64, inputs: vec![], outputs: vec![to] };
    let plain = options.reference || site.outputs[0].1.elements() < SMALL;
    let alone = alone(&draft.func.nodes[i], &op, &[], &outs);
    if plain || !group(draft, kernels, options, &site, &alone)? {
        draft.push(i, Action::Op(op), site.inputs, site.outputs);
    }
    Ok(())
}

fn func_flops(func: &Func) -> u64 {
    let types = |vs: &[athanor_ir::ValueId]| vs.iter().map(|v| func.ty(*v).clone()).collect::<Vec<_>>();
    func.nodes.iter().map(|n| n.op.flops(&types(&n.inputs), &types(&n.outputs))).sum()
}

/// A matrix product.
fn product(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    spec: &str,
) -> Result<bool> {
    let (a, b, out) = (&site.inputs[0], &site.inputs[1], &site.outputs[0]);
    let acc = site.inputs.get(2);
    // Products of f64, and of two different types, are the reference's.
    let generated = |t: &TensorType| float(t.dtype).is_some();
    if !generated(&a.1) || a.1.dtype != b.1.dtype || !(out.1.dtype == a.1.dtype || out.1.dtype == DType::F32) {
        return Ok(false);
    }
    // Leading labels that all three share are a batch: one kernel, run for each of them on its part of the operands.
    let Some(batch) = Batch::of(spec, &a.1, &b.1, &out.1) else { return Ok(false) };
    let [one_a, one_b, one_out] = [&a.1, &b.1, &out.1].map(|t| batch.item(t));
    let Some((gemm, swapped)) = as_gemm(&batch.spec, &one_a, &one_b, &one_out, acc.is_some()) else {
        return Ok(false);
    };
    let (flops, bytes) = (site.flops / batch.count.max(1) as u64, site.bytes / batch.count.max(1) as u64);
    let kernel = gemm_kernel(kernels, options, gemm, (flops, bytes))?;
    copy_addend(draft, site, acc);
    for i in 0..batch.count {
        let part = |(place, _): &(Place, TensorType), ty: &TensorType| {
            (Place { offset: place.offset + i * ty.bytes(), ..*place }, ty.clone())
        };
        let (a, b) = (part(a, &one_a), part(b, &one_b));
        let operands = if swapped { vec![b, a] } else { vec![a, b] };
        draft.run(site.index, kernels, kernel, operands, vec![part(out, &one_out)]);
    }
    Ok(true)
}

/// A product of rows with their experts' matrices.
fn grouped(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    spec: &str,
) -> Result<bool> {
    let [a, b, spans] = [0, 1, 2].map(|i| &site.inputs[i]);
    let acc = site.inputs.get(3);
    let Some((spec, swapped)) = as_grouped(spec, &a.1, &b.1, &site.outputs[0].1, acc.is_some()) else {
        return Ok(false);
    };
    let kernel = generated(kernels, options, site, (format!("{spec:?}"), "experts"), |symbol| {
        gemm::generate_grouped(&spec, options.level, symbol)
    })?;
    copy_addend(draft, site, acc);
    let [a, b] = if swapped { [b, a] } else { [a, b] };
    draft.run(site.index, kernels, kernel, [a, b, spans].map(Clone::clone).to_vec(), site.outputs.clone());
    Ok(true)
}

/// Copies what a product adds to where the result lies, if it is not there yet.
pub(super) fn copy_addend(draft: &mut Draft<'_>, site: &Site, acc: Option<&(Place, TensorType)>) {
    if let Some(acc) = acc
        && acc.0 != site.outputs[0].0
    {
        draft.push(site.index, Action::Op(Op::Reshape), vec![acc.clone()], site.outputs.clone());
    }
}

/// The product by the generated kernel, or by the library where that is faster, with the generated kernel for machines
/// without it.
fn gemm_kernel(
    kernels: &mut KernelTable,
    options: &PlanOptions,
    spec: GemmSpec,
    (flops, bytes): (u64, u64),
) -> Result<usize> {
    let name = format!("gemm {}x{}x{} {}", spec.m, spec.n, spec.k, spec.a.dtype);
    let key = format!("generated {spec:?}");
    let symbol = KernelTable::symbol("gemm", &key);
    let generated = kernels.get(key, |_| {
        let g = gemm::generate(&spec, options.level, &symbol)?;
        let kind = KernelKind::Generated { symbol, grid: g.grid };
        let kernel = Kernel { name: format!("{name} generated"), kind, flops, bytes };
        Ok((kernel, g.scratch_bytes_per_worker * options.threads, Some(g.text)))
    })?;
    if !library_is_faster(options.level) {
        return Ok(generated);
    }
    let scratch = kernels.scratch(generated);
    kernels.get(format!("library {spec:?}"), |_| {
        Ok((Kernel { name, kind: KernelKind::Gemm { spec, fallback: Some(generated) }, flops, bytes }, scratch, None))
    })
}

/// Whether oneDNN 2.6 beats the generated kernel, as measured over the products of the w1 benchmark on two Sapphire Rapids
/// cores (`athanor train examples/w1.yaml --profile`, with and without `--no-library`; `gemm_bench` for single products).
///
/// Generated bf16 products on tiles are 1.2 to 2.5 times as fast. In f32 with AVX-512 they are 1.0 to 1.25 times as fast,
/// but for one shape of sixteen (512×512 over 4096 tokens, 0.93). With AVX2, on two Zen 3 cores, they are 0.95 to 1.6 times
/// as fast, over all products 1.17; oneDNN 2.6 has no bf16 product there. At the portable level the library may use what
/// the kernels may not.
fn library_is_faster(level: CpuLevel) -> bool {
    match level {
        CpuLevel::Portable => true,
        CpuLevel::Avx2 | CpuLevel::Avx512 | CpuLevel::Amx => false,
    }
}

/// Rotary embedding and table lookups.
fn positions(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    op: &Op,
) -> Result<bool> {
    let ty = |i: usize| &site.inputs[i].1;
    let key = format!("{} {:?} {:?}", op.name(), Site::types(&site.inputs), Site::types(&site.outputs));
    let out = &site.outputs[0].1;
    let kernel = match op {
        Op::Rope { interleaved, inverse } => {
            let (Some(dtype), DType::F32) = (float(ty(0).dtype), ty(1).dtype) else { return Ok(false) };
            let [batch, seq, heads, head_dim] = ty(0).dims[..] else { return Ok(false) };
            let pairing = if *interleaved { Pairing::Neighbours } else { Pairing::Halves };
            let rotary_dim = 2 * ty(1).dims[1];
            let spec = RopeSpec { batch, seq, heads, head_dim, rotary_dim, pairing, inverse: *inverse, dtype };
            let make = |symbol: &str| rope::rope(&spec, options.level, symbol);
            generated(kernels, options, site, (format!("{key} {spec:?}"), op.name()), make)?
        }
        Op::Embed => {
            let Some(dtype) = float(out.dtype) else { return Ok(false) };
            let spec = EmbedSpec { tokens: ty(0).elements(), vocab: ty(1).dims[0], hidden: ty(1).dims[1], dtype };
            generated(kernels, options, site, (key, op.name()), |symbol| embed::embed(&spec, options.level, symbol))?
        }
        Op::EmbedGrad { vocab } => {
            let (Some(dtype), DType::F32) = (float(ty(1).dtype), out.dtype) else { return Ok(false) };
            let spec = EmbedSpec { tokens: ty(0).elements(), vocab: *vocab, hidden: out.dims[1], dtype };
            let make = |symbol: &str| embed::embed_grad(&spec, options.level, symbol);
            generated(kernels, options, site, (key, op.name()), make)?
        }
        _ => return Ok(false),
    };
    draft.run(site.index, kernels, kernel, site.inputs.clone(), site.outputs.clone());
    Ok(true)
}

/// Cross-entropy and its gradient, in place where the memory plan says so.
fn loss(draft: &mut Draft<'_>, kernels: &mut KernelTable, options: &PlanOptions, site: &Site, op: &Op) -> Result<bool> {
    let logits = &site.inputs[0].1;
    let (Some(dtype), Some(vocab)) = (float(logits.dtype), logits.dims.last().copied()) else { return Ok(false) };
    let spec = CrossEntropySpec { tokens: logits.elements() / vocab, vocab, dtype };
    let mut outputs = site.outputs.clone();
    let part = matches!(op, Op::PartEntropy | Op::PartEntropyGrad);
    let kernel = if matches!(op, Op::CrossEntropy | Op::PartEntropy) {
        let forward = if part { cross_entropy::part_entropy } else { cross_entropy::cross_entropy };
        let make = |symbol: &str| forward(&spec, options.level, symbol);
        generated(kernels, options, site, (format!("{} {spec:?}", op.name()), op.name()), make)?
    } else {
        let to = if outputs[0].0 == site.inputs[0].0 {
            outputs.clear();
            GradTo::InPlace
        } else {
            let Some(to) = float(outputs[0].1.dtype) else { return Ok(false) };
            GradTo::Buffer(to)
        };
        let backward = if part { cross_entropy::part_entropy_grad } else { cross_entropy::cross_entropy_grad };
        let make = |symbol: &str| backward(&spec, to, options.level, symbol);
        generated(kernels, options, site, (format!("{} {spec:?} {to:?}", op.name()), op.name()), make)?
    };
    draft.run(site.index, kernels, kernel, site.inputs.clone(), outputs);
    Ok(true)
}

/// Adds a kernel made by one of the generators.
pub(super) fn generated(
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    (key, stem): (String, &str),
    make: impl FnOnce(&str) -> Generated,
) -> Result<usize> {
    let (flops, bytes) = (site.flops, site.bytes);
    let symbol = KernelTable::symbol(stem, &key);
    kernels.get(key, |_| {
        let g = make(&symbol);
        let kernel =
            Kernel { name: stem.to_owned(), kind: KernelKind::Generated { symbol, grid: g.grid }, flops, bytes };
        Ok((kernel, g.scratch_bytes_per_worker * options.threads, Some(g.text)))
    })
}

pub(super) fn float(dtype: DType) -> Option<Float> {
    match dtype {
        DType::F32 => Some(Float::F32),
        DType::BF16 => Some(Float::Bf16),
        DType::F16 => Some(Float::F16),
        DType::F64 | DType::I32 => None,
    }
}

/// Attention, forward and backward.
fn attend(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    op: &Op,
) -> Result<bool> {
    let Some(attend) = op.attend() else { return Ok(false) };
    let [q, k, v] = [0, 1, 2].map(|i| &site.inputs[i].1.dims);
    let Some(dtype) = float(site.inputs[0].1.dtype) else { return Ok(false) };
    let Some(result) = float(site.outputs[0].1.dtype) else { return Ok(false) };
    let spec = AttentionSpec {
        batch: q[0],
        seq: q[1],
        keys: k[1],
        first: site.inputs.len() > attend.first(),
        so_far: attend.step,
        heads: q[2],
        kv_heads: k[2],
        head_dim: q[3],
        v_head_dim: v[3],
        scale: attend.scale.0,
        causal: attend.causal,
        alibi: attend.alibi,
        dtype,
        result,
    };
    let key = format!("{} {spec:?}", op.name());
    let kernel = generated(kernels, options, site, (key, op.name()), |symbol| {
        if attend.back {
            attention::backward(&spec, options.level, symbol)
        } else {
            attention::forward(&spec, options.level, symbol)
        }
    })?;
    draft.run(site.index, kernels, kernel, site.inputs.clone(), site.outputs.clone());
    Ok(true)
}

/// One node as a group of its own.
fn alone(node: &Node, op: &Op, ins: &[TensorType], outs: &[TensorType]) -> Func {
    let mut func = Func::new(op.name());
    let params: Vec<_> = ins
        .iter()
        .enumerate()
        .map(|(i, t)| func.param(format!("p{i}"), t.clone(), Role::Input, node.loc.clone()))
        .collect();
    let results = func.push(op.clone(), &params, outs.to_vec(), &node.loc);
    results.iter().enumerate().for_each(|(i, v)| func.result(format!("r{i}"), *v));
    func
}

/// A group of fused loops.
fn group(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    func: &Func,
) -> Result<bool> {
    let tie = |out: &(Place, TensorType)| site.inputs.iter().position(|i| i.0 == out.0);
    let ties: Vec<Option<usize>> = site.outputs.iter().map(tie).collect();
    let key = format!(
        "{:?} {:?} {:?} {ties:?}",
        func.nodes.iter().map(|n| (&n.op, &n.inputs, &n.outputs)).collect::<Vec<_>>(),
        func.types,
        func.results
    );
    // Groups are numbered within a module.
    let stem = func.name.splitn(3, '_').last().unwrap_or_default();
    let symbol = KernelTable::symbol(stem, &key);
    let Some(l) = loops::generate(func, &ties, options.threads, options.level, &symbol) else { return Ok(false) };
    let (flops, bytes) = (site.flops, site.bytes);
    let main = kernels.get(key.clone(), |_| {
        let kind = KernelKind::Generated { symbol: l.main.symbol.clone(), grid: l.rows };
        Ok((Kernel { name: func.name.clone(), kind, flops, bytes }, 0, Some(l.main.clone())))
    })?;
    let (sums, mut written): (Vec<_>, Vec<_>) =
        site.outputs.iter().cloned().enumerate().partition(|(i, _)| l.sums.contains(i));
    let partial = (l.partial_bytes > 0).then(|| draft.temporary(TensorType::new(DType::F32, [l.partial_bytes / 4])));
    written.extend(partial.iter().cloned().map(|p| (usize::MAX, p)));
    let outputs = written.into_iter().map(|x| x.1).collect();
    draft.run(site.index, kernels, main, site.inputs.clone(), outputs);
    if let (Some((text, grid)), Some(partial)) = (l.finish, partial) {
        let finish = kernels.get(format!("{key} sums"), |_| {
            let kind = KernelKind::Generated { symbol: text.symbol.clone(), grid };
            let bytes = partial.1.bytes() as u64;
            Ok((Kernel { name: format!("{} sums", func.name), kind, flops: bytes / 4, bytes }, 0, Some(text)))
        })?;
        draft.run(site.index, kernels, finish, vec![partial], sums.into_iter().map(|x| x.1).collect());
    }
    Ok(true)
}

/// Sum of squares over many tensors: a partial sum per tensor and worker, then one small sum.
fn sum_squares(draft: &mut Draft<'_>, kernels: &mut KernelTable, options: &PlanOptions, site: &Site) -> Result<bool> {
    if site.inputs.iter().any(|i| i.1.dtype != DType::F32) {
        return Ok(false);
    }
    let slots = options.threads;
    let all = draft.temporary(TensorType::new(DType::F64, [site.inputs.len() * slots]));
    for (k, input) in site.inputs.iter().enumerate() {
        let n = input.1.elements();
        let part = Site {
            index: site.index,
            inputs: vec![input.clone()],
            outputs: vec![],
            flops: 2 * n as u64,
            bytes: input.1.bytes() as u64,
        };
        let kernel = generated(kernels, options, &part, (format!("sum_squares {n}"), "sum_squares"), |symbol| {
            squares::generate(n, slots, options.level, symbol)
        })?;
        let place = Place { offset: k * slots * 8, ..all.0 };
        draft.run(
            site.index,
            kernels,
            kernel,
            vec![input.clone()],
            vec![(place, TensorType::new(DType::F64, [slots]))],
        );
    }
    let sum = Op::Reduce { kind: ReduceKind::Sum, dims: vec![0] };
    draft.push(site.index, Action::Op(sum), vec![all], site.outputs.clone());
    Ok(true)
}
