//! A vocabulary in parts: what is cut, what ranks tell each other, and that the check finds what is missing.

use super::*;

/// The cross entropy of norm(table\[tokens\])·head for tokens `[4, 3]` of a vocabulary of 10.
fn language_model(mesh: Mesh, accumulation: usize) -> Module {
    let mut f = Func::new("forward");
    let f32s = |dims: &[usize]| TensorType::new(DType::F32, dims);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let [tokens, labels] =
        ["tokens", "labels"].map(|n| f.param(n, TensorType::new(DType::I32, [4, 3]), Role::Input, Loc::default()));
    let [table, gain, head] = [("table", &[10, 8][..]), ("gain", &[8]), ("head", &[10, 8])]
        .map(|(name, dims)| f.param(name, f32s(dims), weight(), Loc::default()));
    let mut b = Builder::new(&mut f, Loc::default());
    let x = b.many(Op::Embed, &[tokens, table])[0];
    let x = b.many(Op::RmsNorm { eps: athanor_ir::F64(1e-5) }, &[x, gain])[0];
    let logits = b.einsum("bsh,vh->bsv", x, head);
    let loss = b.many(Op::CrossEntropy, &[logits, labels])[0];
    let loss = b.reduce(ReduceKind::Sum, loss, &[0, 1]);
    f.result("loss", loss);
    let run = RunSpec { max_grad_norm: Some(1.0), accumulation, cut_vocabulary: true, ..RunSpec::for_tests() };
    let module = Module { name: "words".into(), level: Level::Model, mesh, run, funcs: vec![f] };
    registry::build("autodiff,optimizer").unwrap().iter().fold(module, |m, p| p.run(&m).unwrap())
}

#[test]
fn rows_of_embedding_and_output_layer_are_shared() {
    let m = partition(&language_model(mesh(&[("tp", 2)]), 1)).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&m).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spread(&m, "micro", "table"), (vec![5, 8], "[tp ] ".into()));
    assert_eq!(spread(&m, "update", "grad.head"), (vec![5, 8], "[tp ] ".into()));
    // Rows of tokens; the largest logarithm, the sum and the label's logit; the gradient of what the head reads.
    let forward = [&[4, 3, 8][..], &[4, 3], &[4, 3], &[4, 3]].map(|dims| named("tp", dims));
    let mut told = sums(&m, "micro");
    told.retain(|(_, dims)| dims.len() > 1);
    // Ids of tokens and of labels are counted anew, which nobody is told.
    let ids = m.func("micro").unwrap().nodes.iter().filter(|n| n.op.name() == "own_ids").count();
    assert_eq!((ids, told.len() - ids), (2, forward.len() + 1), "{told:?}");
}

#[test]
fn a_vocabulary_that_is_not_divided_stays_whole() {
    let m = partition(&language_model(mesh(&[("dp", 2)]), 1)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spread(&m, "micro", "table"), (vec![10, 8], "[] ".into()));
    let e = partition(&language_model(mesh(&[("tp", 3)]), 1)).unwrap_err();
    assert!(e.message.contains("axis tp of 3 has nothing to cut"), "{e}");
}

#[test]
fn everything_ranks_tell_each_other_about_words_is_needed() {
    let m = partition(&language_model(mesh(&[("dp", 2), ("tp", 2)]), 2)).unwrap_or_else(|e| panic!("{e}"));
    let mut changed = 0;
    for (f, func) in m.funcs.iter().enumerate() {
        for n in (0..func.nodes.len()).filter(|n| matches!(func.nodes[*n].op, Op::Collective(_))) {
            for (what, change) in
                [("left out", bypass as fn(&mut Func, usize)), ("over another axis", over_another_axis)]
            {
                let e = check(&mutated(&m, f, n, change));
                assert!(
                    e.is_err_and(|e| e.code == &PARTIAL),
                    "{} {n} of @{} {what}",
                    func.nodes[n].op.name(),
                    func.name
                );
                changed += 1;
            }
        }
    }
    assert!(changed >= 2 * 10, "{changed}");
}
