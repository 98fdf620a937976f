//! Which einsums are one matrix product, and of which strides.

use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_ir::signature::parse_einsum;
use athanor_ir::types::TensorType;

/// Row-major strides of `dims`, in elements.
pub(super) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut out = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        out[i - 1] = out[i] * dims[i];
    }
    out
}

/// Extent and stride of the labels `group` when `labels` holds them as one unbroken run in the same order.
fn run_of(group: &[char], labels: &[char], dims: &[usize]) -> Option<(usize, usize)> {
    let Some(last) = group.last() else { return Some((1, 0)) };
    let end = labels.iter().position(|l| l == last)?;
    let start = (end + 1).checked_sub(group.len())?;
    (labels[start..=end] == *group).then(|| (dims[start..=end].iter().product(), strides(dims)[end]))
}

/// The leading labels that both operands and the result of an einsum share, in the same order: products of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of products.
    pub count: usize,
    /// The einsum of one of them.
    pub spec: String,
    labels: usize,
}

impl Batch {
    /// The batch of an einsum; one product where no label is shared. `None` if the text is no einsum of these ranks.
    pub fn of(spec: &str, a: &TensorType, b: &TensorType, c: &TensorType) -> Option<Self> {
        let [la, lb, lc] = parse_einsum(spec).ok()?;
        let fits = la.len() == a.rank() && lb.len() == b.rank() && lc.len() == c.rank();
        let labels = la.iter().zip(&lb).zip(&lc).take_while(|((x, y), z)| x == y && y == z).count();
        let text = |l: &[char]| l[labels..].iter().collect::<String>();
        let rest = format!("{},{}->{}", text(&la), text(&lb), text(&lc));
        fits.then(|| Self { count: a.dims[..labels].iter().product(), spec: rest, labels })
    }

    /// The part of an operand or the result that one product has.
    pub fn item(&self, t: &TensorType) -> TensorType {
        t.with_dims(&t.dims[self.labels..])
    }
}

/// The einsum as C = A·B on collapsed dims with whether A and B changed places (C written transposed), or `None` if it
/// is not one matrix product: batch labels, sums over one operand alone, or labels that do not lie together in memory.
pub fn as_gemm(
    spec: &str,
    a: &TensorType,
    b: &TensorType,
    c: &TensorType,
    accumulate: bool,
) -> Option<(GemmSpec, bool)> {
    let [la, lb, lc] = parse_einsum(spec).ok()?;
    let keep = |labels: &[char], f: &dyn Fn(char) -> bool| labels.iter().copied().filter(|l| f(*l)).collect::<Vec<_>>();
    let m = keep(&la, &|l| lc.contains(&l));
    let n = keep(&lb, &|l| lc.contains(&l));
    let k = keep(&la, &|l| !lc.contains(&l));
    let whole = m.iter().all(|l| !lb.contains(l))
        && k.iter().all(|l| lb.contains(l))
        && n.iter().all(|l| !la.contains(l))
        && lb.iter().all(|l| n.contains(l) || k.contains(l));
    if !whole {
        return None;
    }
    let matrix = |rows: &[char], cols: &[char], labels: &[char], t: &TensorType| {
        let (r, row_stride) = run_of(rows, labels, &t.dims)?;
        let (c, col_stride) = run_of(cols, labels, &t.dims)?;
        Some((r, c, MatRef { dtype: t.dtype, row_stride, col_stride }))
    };
    let (m_extent, k_extent, a) = matrix(&m, &k, &la, a)?;
    let (_, n_extent, b) = matrix(&k, &n, &lb, b)?;
    let (_, _, c) = matrix(&m, &n, &lc, c)?;
    let spec = GemmSpec { m: m_extent, n: n_extent, k: k_extent, a, b, c, accumulate };
    // The result of a product written transposed is the product of the transposes.
    let swap = spec.c.col_stride != 1 && spec.n != 1;
    Some(if swap { (spec.transposed(), true) } else { (spec, false) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::DType;

    fn t(dims: &[usize]) -> TensorType {
        TensorType::new(DType::F32, dims)
    }

    fn gemm(spec: &str, a: &[usize], b: &[usize]) -> Option<GemmSpec> {
        let c = athanor_ir::signature::einsum_dims(spec, a, b).unwrap();
        as_gemm(spec, &t(a), &t(b), &t(&c), false).map(|g| g.0)
    }

    fn shape(g: &GemmSpec) -> (usize, usize, usize) {
        (g.m, g.n, g.k)
    }

    #[test]
    fn a_linear_layer_is_one_product_over_tokens() {
        let g = gemm("bsh,kh->bsk", &[2, 8, 16], &[32, 16]).unwrap();
        assert_eq!(shape(&g), (16, 32, 16));
        assert_eq!((g.a.row_stride, g.a.col_stride), (16, 1));
        assert_eq!((g.b.row_stride, g.b.col_stride), (1, 16));
        assert_eq!((g.c.row_stride, g.c.col_stride), (32, 1));
    }

    #[test]
    fn a_weight_gradient_contracts_the_tokens() {
        let g = gemm("bsk,bsh->kh", &[2, 8, 32], &[2, 8, 16]).unwrap();
        assert_eq!(shape(&g), (32, 16, 16));
        assert_eq!((g.a.row_stride, g.a.col_stride), (1, 32));
        assert_eq!((g.b.row_stride, g.b.col_stride), (16, 1));
    }

    #[test]
    fn a_transposed_result_swaps_the_operands() {
        let g = gemm("bsk,bsh->hk", &[2, 8, 32], &[2, 8, 16]).unwrap();
        assert_eq!(shape(&g), (16, 32, 16));
        assert_eq!(g.c.col_stride, 1);
    }

    #[test]
    fn batched_products_are_one_product_per_item() {
        assert_eq!(gemm("bsd,btd->bst", &[2, 8, 4], &[2, 8, 4]), None);
        let of = |spec: &str, a: &[usize], b: &[usize], c: &[usize]| Batch::of(spec, &t(a), &t(b), &t(c)).unwrap();
        let batch = of("bsd,btd->bst", &[2, 8, 4], &[2, 6, 4], &[2, 8, 6]);
        assert_eq!((batch.count, batch.spec.as_str()), (2, "sd,td->st"));
        assert_eq!(batch.item(&t(&[2, 8, 4])), t(&[8, 4]));
        assert!(gemm(&batch.spec, &[8, 4], &[6, 4]).is_some());
        // Heads in the middle are no batch, and a plain product is a batch of one.
        let plain = of("bsh,kh->bsk", &[2, 8, 16], &[32, 16], &[2, 8, 32]);
        assert_eq!((plain.count, plain.spec.as_str()), (1, "bsh,kh->bsk"));
    }
}
