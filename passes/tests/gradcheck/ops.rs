//! Element-wise ops, ops that move elements, reductions, contractions.

use super::Case;
use athanor_ir::{Binary, DType, Op, ReduceKind, Unary};
use proptest::prelude::*;

fn dims() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..4usize, 0..4)
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn unary(f in prop::sample::select(&Unary::ALL[..]), dims in dims(), seed: u64) {
        prop_assume!(!matches!(f, Unary::SiluGrad | Unary::GeluGrad | Unary::GeluErfGrad));
        let positive = matches!(f, Unary::Log | Unary::Sqrt | Unary::Rsqrt | Unary::Recip);
        let case = Case::new(&[&dims], seed);
        let case = if positive { case.within(0.5, 2.0) } else { case.within(-3.0, 3.0) };
        case.check(|b, x| vec![b.unary(f, x[0])]);
    }

    #[test]
    fn binary(f in prop::sample::select(&Binary::ALL[..]), dims in dims(), same: bool, seed: u64) {
        let case = Case::new(&[&dims, &dims], seed);
        // Larger and smaller have a kink where operands are equal, so there the second is kept above or below.
        let kink = matches!(f, Binary::Max | Binary::Min);
        let case = if f == Binary::Div { case.within(0.5, 2.0) } else { case };
        case.check(|b, x| {
            let ty = b.ty(x[0]);
            let other = if kink {
                let shift = b.constant(if seed % 2 == 0 { 3.0 } else { -3.0 }, ty);
                b.add(x[1], shift)
            } else if same { x[0] } else { x[1] };
            vec![b.binary(f, x[0], other)]
        });
    }

    #[test]
    fn cast_to_a_wider_type_and_back(dims in dims(), seed: u64) {
        // f64 is the widest, so this is the identity; narrower types are compared by the model goldens.
        Case::new(&[&dims], seed).check(|b, x| {
            let ty = b.ty(x[0]);
            let loc = b.loc.clone();
            b.func.push(Op::Cast, &[x[0]], vec![ty], &loc)
        });
    }

    #[test]
    fn reshape_and_transpose(dims in dims(), keys: [u8; 4], seed: u64) {
        let mut perm: Vec<usize> = (0..dims.len()).collect();
        perm.sort_by_key(|i| keys[*i]);
        Case::new(&[&dims], seed).check(|b, x| {
            let turned = b.many(Op::Transpose { perm: perm.clone() }, &[x[0]])[0];
            let square = b.unary(Unary::Square, turned);
            let flat = b.ty(square).elements();
            vec![b.reshape(square, &[flat, 1])]
        });
    }

    #[test]
    fn broadcast(to in prop::collection::vec(1..4usize, 1..4), keep: [bool; 4], seed: u64) {
        let kept: Vec<usize> = (0..to.len()).filter(|i| keep[*i]).collect();
        let from: Vec<usize> = kept.iter().map(|i| to[*i]).collect();
        Case::new(&[&from], seed).check(|b, x| vec![b.broadcast(x[0], &kept, &to)]);
    }

    #[test]
    fn slice(dims in prop::collection::vec(1..5usize, 1..4), at: [prop::sample::Index; 3], seed: u64) {
        let dim = at[0].index(dims.len());
        let start = at[1].index(dims[dim]);
        let len = 1 + at[2].index(dims[dim] - start);
        Case::new(&[&dims], seed).check(|b, x| vec![b.slice(x[0], dim, start, len)]);
    }

    #[test]
    fn concat(dims in prop::collection::vec(1..4usize, 1..4), at: prop::sample::Index, extents: [u8; 2], seed: u64) {
        let dim = at.index(dims.len());
        let of = |n: usize| dims.iter().enumerate().map(|(i, d)| if i == dim { n } else { *d }).collect::<Vec<_>>();
        let (first, second) = (of(1 + extents[0] as usize % 3), of(1 + extents[1] as usize % 3));
        Case::new(&[&first, &second], seed).check(|b, x| b.many(Op::Concat { dim }, &[x[0], x[1], x[0]]));
    }

    #[test]
    fn reduce(kind in prop::sample::select(vec![ReduceKind::Sum, ReduceKind::Max]), dims in dims(), drop: [bool; 4],
              seed: u64) {
        let dropped: Vec<usize> = (0..dims.len()).filter(|i| drop[*i]).collect();
        // Continuous draws: two elements within the difference step of each other do not come up.
        Case::new(&[&dims], seed).check(|b, x| vec![b.reduce(kind, x[0], &dropped)]);
    }

    #[test]
    fn einsum(spec in prop::sample::select(vec![
        "ij,jk->ik", "ij,kj->ik", "ij,kj->ki", "bij,bjk->bik", "bshd,bthd->bhst", "bsh,kh->bsk", "bsk,bsh->kh",
        "ij,ij->", "ij,ij->j", "i,j->ij", "ij,j->i", "ij,k->ik", "ij,jk->k", "abc,cd->bad",
    ]), extents: [u8; 8], with_sum: bool, seed: u64) {
        let [a, c, out] = athanor_ir::signature::parse_einsum(spec).unwrap();
        let extent = |l: &char| 1 + extents[*l as usize % 8] as usize % 3;
        let of = |labels: &[char]| labels.iter().map(extent).collect::<Vec<_>>();
        let op = Op::Einsum { spec: spec.into() };
        if with_sum {
            Case::new(&[&of(&a), &of(&c), &of(&out)], seed).check(|b, x| b.many(op.clone(), x));
        } else {
            Case::new(&[&of(&a), &of(&c)], seed).check(|b, x| b.many(op.clone(), x));
        }
    }
}

/// The pass keeps f32 what the weight is in f32, however narrow the product.
#[test]
fn the_gradient_of_a_cast_weight_keeps_its_precision() {
    use athanor_ir::{Builder, Func, Init, Loc, Role, TensorType};
    let mut func = Func::new("forward");
    let role = Role::Weight { init: Init::Constant { value: 1.0 }, decay: true };
    let w = func.param("w", TensorType::new(DType::F32, [2, 2]), role, Loc::default());
    let x = func.param("x", TensorType::new(DType::BF16, [3, 2]), Role::Input, Loc::default());
    let mut b = Builder::new(&mut func, Loc::default());
    let cast = b.cast(w, DType::BF16);
    let y = b.einsum("sh,kh->sk", x, cast);
    let sum = b.reduce(ReduceKind::Sum, y, &[0, 1]);
    let loss = b.cast(sum, DType::F32);
    func.result("loss", loss);
    let back = athanor_passes::autodiff::gradients(&func, "loss", 1.0).unwrap();
    let grad = back.find_result("grad.w").unwrap().value;
    let node = back.nodes.iter().find(|n| n.outputs.contains(&grad)).unwrap();
    assert!(matches!(node.op, Op::Einsum { .. }), "{:?}", node.op);
}
