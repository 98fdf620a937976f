//! What replicas share of weights: moments, gradients, the weights themselves; by all of them and by two at a time.

use super::{Compiled, OptLevel, Resume, SAVES, STEPS, Spread, agree, compile, files_agree};
use crate::support::mesh::{BY_TWO, DEEPSEEK, zero};
use athanor_ir::plan::BufferRole;

type Change = (&'static str, &'static str);

fn with(parts: &[&[Change]]) -> Vec<Change> {
    parts.concat()
}

const EXPERTS_BY_TWO: Change = ("parallel_config.expert_parallel", "2");
const TIED: [Change; 2] = [("load_checkpoint", ""), ("model.model_config.tie_word_embeddings", "True")];

/// Trains `model` in `micro` micro-batches on one device, and in each of `ways` on so many replicas and tensor parallel ranks.
fn follow(opt: OptLevel, micro: usize, model: &[Change], ways: &[([usize; 2], Vec<Change>)]) {
    let serial = compile([1, 1, micro], opt, model).train(STEPS, Resume::No);
    for ([dp, tp], way) in ways {
        let got = compile([*dp, *tp, micro], opt, &with(&[model, way])).train(STEPS, Resume::No);
        agree(&format!("dp {dp}, tp {tp}, {micro} micro-batches, {model:?}, {way:?}"), &got, &serial);
    }
}

#[test]
fn gradients_and_weights_in_parts_follow_one_device() {
    let ways = [2, 3].map(|stage| ([2, 2], zero(stage)));
    let by_two = [1, 2, 3].map(|stage| ([4, 1], with(&[&zero(stage), &[BY_TWO]])));
    follow(OptLevel::O0, 1, &[], &[&ways[..], &by_two].concat());
    follow(OptLevel::O1, 2, &[], &[&ways[..], &[([2, 1], zero(2)), ([2, 1], zero(3))]].concat());
    follow(OptLevel::O1, 1, &[], &[([4, 1], zero(3)), ([4, 2], with(&[&zero(3), &[BY_TWO]]))]);
}

/// Experts are shared by replicas, and so is what is left of them.
#[test]
fn experts_in_parts_follow_one_device() {
    let way = |stage: usize, more: &[Change]| with(&[&zero(stage), &[EXPERTS_BY_TWO], more]);
    let ways = [([4, 1], way(2, &[])), ([4, 1], way(3, &[])), ([4, 1], way(3, &[BY_TWO]))];
    follow(OptLevel::O0, 1, &DEEPSEEK, &ways);
    follow(OptLevel::O1, 2, &DEEPSEEK, &[([2, 2], way(2, &[])), ([2, 2], way(3, &[]))]);
}

#[test]
fn a_vocabulary_in_parts_is_cut_further() {
    let rows: Change = ("parallel_config.vocab_emb_dp", "False");
    follow(OptLevel::O1, 2, &TIED, &[2, 3].map(|stage| ([2, 2], with(&[&zero(stage), &[rows]]))));
}

#[test]
fn a_scaled_loss_with_gradients_in_parts_follows_one_device() {
    let scale = [("runner_wrapper.scale_sense", "1024.0"), ("runner_wrapper.use_clip_grad", "True")];
    follow(OptLevel::O1, 2, &scale, &[1, 2, 3].map(|stage| ([2, 1], zero(stage))));
    follow(OptLevel::O0, 1, &scale, &[([4, 1], with(&[&zero(2), &[BY_TWO]]))]);
}

/// Embeddings are with the first and the last stage; what they share is summed between both.
#[test]
fn stages_share_among_their_replicas() {
    let on = Spread { pp: 2, dp: 2, tp: 1, micro: 4, sequences: 8 };
    let layers = ("model.model_config.num_layers", "4");
    let further = [("load_checkpoint", ""), layers, ("model.model_config.mtp_num_layers", "1")];
    for (model, experts) in [(with(&[&TIED]), "1"), (with(&[&DEEPSEEK, &further]), "2")] {
        let alone = model.clone();
        let model = [&model[..], &[("parallel_config.expert_parallel", experts)]].concat();
        let serial = Compiled::new(on.alone(), OptLevel::O1, &alone).train(STEPS, Resume::No);
        for stage in 2..=3 {
            let changes = [&model[..], &zero(stage)].concat();
            agree(
                &format!("{changes:?}"),
                &Compiled::new(on, OptLevel::O1, &changes).train(STEPS, Resume::No),
                &serial,
            );
        }
    }
}

#[test]
fn a_layer_that_is_recomputed_gathers_its_weights_for_it() {
    let again = ["recompute_config.recompute", "recompute_config.select_recompute"].map(|key| (key, "True"));
    follow(OptLevel::O1, 2, &[], &again.map(|key| ([2, 1], with(&[&zero(3), &[key]]))));
}

#[test]
fn other_rules_share_what_they_can() {
    let kinds: [&[Change]; 2] = [
        &[("optimizer.type", "Lamb")],
        &[("optimizer.type", "PmaAdamW"), ("optimizer.fused_num", "2"), ("optimizer.interleave_step", "2")],
    ];
    for kind in kinds {
        follow(OptLevel::O0, 1, kind, &[([2, 1], zero(3))]);
    }
}

/// Bytes of weights, gradients and moments of a rank, and those of all it needs.
fn bytes(compiled: &Compiled) -> [usize; 4] {
    let stage = &compiled.plan.stages[0];
    let of = |wanted: fn(&BufferRole) -> bool| -> usize {
        stage.buffers.iter().filter(|b| wanted(&b.role)).map(|b| b.bytes).sum()
    };
    [
        of(|r| matches!(r, BufferRole::Weight { .. })),
        of(|r| *r == BufferRole::Grad),
        of(|r| *r == BufferRole::Moment),
        stage.arena_bytes,
    ]
}

#[test]
fn memory_falls_with_what_is_shared() {
    let of = |stage: usize| bytes(&compile([2, 1, 1], OptLevel::O1, &zero(stage)));
    let [none, moments, gradients, weights] = [0, 1, 2, 3].map(of);
    let halved = |less: usize, whole: usize| less * 2 < whole + whole / 50;
    for (kind, (less, whole)) in [(2, (moments, none)), (1, (gradients, moments)), (0, (weights, gradients))] {
        assert!(halved(less[kind], whole[kind]), "{kind}: {less:?} of {whole:?}");
        assert!(less[3] < whole[3], "{less:?} of {whole:?}");
    }
    // Weights that were kept from forward to backward would all be in the arena whole: beside the halves there are only those that
    // are gathered ahead.
    let halves = (none[0] + none[1] + none[2]) / 2;
    let gathered = (weights[3] + halves).saturating_sub(none[3]);
    assert!(gathered < none[0] * 3 / 5, "{gathered} bytes: {weights:?} of {none:?}");
}

#[test]
fn files_of_weights_in_parts_are_those_of_one_device() {
    let serial = compile([1, 1, 1], OptLevel::O1, &[SAVES]);
    let straight = serial.train(6, Resume::No);
    for (dp, changes) in [(2, with(&[&zero(3), &[SAVES]])), (4, with(&[&zero(3), &[BY_TWO, SAVES]]))] {
        let mesh = compile([dp, 1, 1], OptLevel::O1, &changes);
        agree("weights in parts", &mesh.train(3, Resume::No), &straight[..3]);
        let (ours, theirs) = (mesh.saved(3), serial.saved(3));
        files_agree(&ours, &theirs);
        agree("on the mesh from one device", &mesh.train(6, Resume::From(theirs)), &straight[3..]);
        agree("on one device from the mesh", &serial.train(6, Resume::From(ours)), &straight[3..]);
    }
}
