//! Weights through random tables and back, bit for bit, and what is said when they do not fit.

use super::super::convert::{Checkpoint, Opening, convert};
use super::super::elements::ElementsMut;
use super::super::load::fit;
use super::super::mapping::{Weight, map};
use super::super::tensors::Tensors;
use super::super::write::{DEFAULT_SHARD, Source, gather, write};
use athanor_ir::DType;
use athanor_ir::names::{Blocks, Copied, Layout, NameTable, Row};
use proptest::prelude::*;
use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Weights in memory, read in whichever way.
pub(super) struct Memory {
    pub weights: Vec<Weight>,
    pub bytes: Vec<Vec<u8>>,
    /// Pretends that reading is dear.
    pub dear: bool,
}

impl Source for Memory {
    fn dtype(&self, weight: usize) -> DType {
        self.weights[weight].dtype
    }
    fn read(&self, weight: usize, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        let size = self.weights[weight].dtype.bytes();
        Ok(Cow::Borrowed(&self.bytes[weight][range.start * size..range.end * size]))
    }
    fn in_pieces(&self, _: usize) -> bool {
        !self.dear
    }
    fn in_memory(&self) -> bool {
        !self.dear
    }
}

/// Bytes of all kinds, NaNs among them.
fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut z = seed | 1;
    (0..n)
        .map(|_| {
            z = z.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (z >> 56) as u8
        })
        .collect()
}

/// A group of weights that one row is about: kind, three sizes, shares.
type Group = (u8, [usize; 3], Vec<usize>);

fn groups() -> impl Strategy<Value = Vec<Group>> {
    let shares = prop::collection::vec(1..4usize, 1..4);
    prop::collection::vec((0..6u8, prop::array::uniform3(1..5usize), shares), 1..6)
}

/// The table of `groups`, and the weights of two layers, of `dtype`.
fn model(groups: &[Group], dtype: DType) -> (NameTable, Vec<Weight>) {
    let mut table = NameTable { name: "random".into(), ..NameTable::default() };
    let mut weights = vec![];
    for (g, (kind, [a, b, c], shares)) in groups.iter().enumerate() {
        let (a, b, c) = (*a, *b, *c);
        let one = vec![1];
        let (layout, dims): (Layout, Vec<Vec<usize>>) = match kind {
            0 => (Layout::Same, vec![vec![a, b, c]]),
            1 => (Layout::PerExpert, vec![vec![a, b, c]]),
            2 => {
                let layout = Layout::Joined { blocks: Blocks::One, shares: shares.clone() };
                (layout, shares.iter().map(|s| vec![s * a, b]).collect())
            }
            3 => {
                let layout = Layout::Joined { blocks: Blocks::Count(b), shares: shares.clone() };
                // Rank 1, as biases are.
                (layout, shares.iter().map(|s| vec![s * a * b]).collect())
            }
            4 => {
                let ones = vec![1; shares.len()];
                (Layout::Joined { blocks: Blocks::EveryRow, shares: ones }, shares.iter().map(|_| vec![a, c]).collect())
            }
            _ => {
                let shares = if c == 1 { &one } else { shares };
                let layout = Layout::Experts { experts: a, flat: b % 2 == 0, shares: shares.clone() };
                (layout, shares.iter().map(|s| vec![a, s * b, c]).collect())
            }
        };
        let ours: Vec<String> = (0..dims.len()).map(|i| format!("model.layers.{{l}}.g{g}.w{i}.weight")).collect();
        let expert = if *kind == 1 { ".{e}" } else { "" };
        for l in 0..2 {
            let name = |o: &String| o.replace("{l}", &l.to_string());
            weights.extend(ours.iter().zip(&dims).map(|(o, d)| Weight { name: name(o), dtype, dims: d.clone() }));
        }
        table.rows.push(Row { ours, theirs: format!("net.{{l}}.g{g}{expert}.kernel"), layout });
    }
    (table, weights)
}

fn memory(weights: Vec<Weight>, dear: bool) -> Memory {
    let size = |w: &Weight| w.dims.iter().product::<usize>() * w.dtype.bytes();
    let bytes = weights.iter().enumerate().map(|(i, w)| noise(i as u64 * 977 + 3, size(w))).collect();
    Memory { weights, bytes, dear }
}

fn any_dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![DType::F32, DType::BF16, DType::F16, DType::F64])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn to_disk_and_back_is_the_identity(
        groups in groups(), dtype in any_dtype(), dear in any::<bool>(), limit in 40..4000u64, cut in 1..50usize,
    ) {
        let temp = tempfile::tempdir().unwrap();
        let (table, weights) = model(&groups, dtype);
        let from = memory(weights.clone(), dear);
        let stored = map(&table, &weights).unwrap();
        let files = write(&from, &stored, &[], temp.path(), "model.safetensors", limit).unwrap();
        prop_assert!(files.len() == 1 || temp.path().join("model.safetensors.index.json").is_file());
        // In pieces it is what it is as a whole.
        let tensors = Tensors::of(temp.path()).unwrap();
        for s in &stored {
            let whole = tensors.data(&s.name).unwrap();
            for range in super::super::mapping::pieces(s.elements(), cut) {
                let mut piece = vec![0; range.len() * dtype.bytes()];
                gather(&from, s, &range, &mut ElementsMut { dtype, bytes: &mut piece }).unwrap();
                let size = dtype.bytes();
                prop_assert_eq!(&piece, &whole.bytes[range.start * size..range.end * size]);
            }
        }
        // Read through the table, with and without knowing what must be there.
        for expected in [Some(weights.as_slice()), None] {
            let tables = std::slice::from_ref(&table);
            let opened = Checkpoint::open(temp.path(), &Opening { tables, expected, dtype: None }).unwrap();
            prop_assert_eq!(opened.weights.len(), weights.len());
            let source = opened.source(&|_| ());
            for (i, w) in opened.weights.iter().enumerate() {
                let j = weights.iter().position(|x| x.name == w.name).unwrap();
                prop_assert_eq!(w, &weights[j]);
                let n: usize = w.dims.iter().product();
                for range in super::super::mapping::pieces(n, cut) {
                    let size = dtype.bytes();
                    let want = &from.bytes[j][range.start * size..range.end * size];
                    let got = source.read(i, range).unwrap();
                    prop_assert_eq!(got.as_ref(), want);
                }
            }
        }
    }

    #[test]
    fn from_one_table_to_another_and_back_is_the_identity(
        groups in groups(), other in prop::collection::vec((0..6u8, prop::array::uniform3(1..5usize)), 6), dtype in any_dtype(),
    ) {
        // Another table about the same weights: names of its own, and each row that has one weight cut by expert or not.
        let (table, weights) = model(&groups, dtype);
        let mut second = NameTable { name: "second".into(), ..NameTable::default() };
        for (row, (kind, _)) in table.rows.iter().zip(&other) {
            for (i, ours) in row.ours.iter().enumerate() {
                let deep = weights.iter().find(|w| row.of_ours(&w.name).is_some()).is_some_and(|w| w.dims.len() == 3);
                let theirs = format!("other{}.{i}{}", row.theirs.replace(".{e}", ""), if deep && kind % 2 == 0 { ".{e}" } else { "" });
                let layout = if deep && kind % 2 == 0 { Layout::PerExpert } else { Layout::Same };
                second.rows.push(Row { ours: vec![ours.clone()], theirs, layout });
            }
        }
        let temp = tempfile::tempdir().unwrap();
        let at = |n: &str| temp.path().join(n);
        let from = memory(weights.clone(), false);
        std::fs::create_dir(at("a")).unwrap();
        write(&from, &map(&table, &weights).unwrap(), &[], &at("a"), "model.safetensors", DEFAULT_SHARD).unwrap();
        let tables = [table.clone(), second.clone()];
        let open = |n: &str| Checkpoint::open(&at(n), &Opening { tables: &tables, ..Opening::default() }).unwrap();
        convert(&open("a"), &second, &at("b"), 300, &|_| ()).unwrap();
        convert(&open("b"), &table, &at("c"), DEFAULT_SHARD, &|_| ()).unwrap();
        prop_assert!(open("a").compare(&open("b"), &|_| ()).unwrap().is_empty());
        let (a, c) = (Tensors::of(&at("a")).unwrap(), Tensors::of(&at("c")).unwrap());
        prop_assert!(a.names().eq(c.names()));
        for n in a.names() {
            prop_assert_eq!(&a.info(n).unwrap().shape, &c.info(n).unwrap().shape);
            prop_assert_eq!(a.data(n).unwrap().bytes, c.data(n).unwrap().bytes);
        }
    }
}

/// Writes `weights` under their own names.
fn plain(dir: &Path, weights: &[(&str, &[usize])]) {
    let weight = |(n, d): &(&str, &[usize])| Weight { name: (*n).into(), dtype: DType::F32, dims: d.to_vec() };
    let from = memory(weights.iter().map(weight).collect(), false);
    let stored = map(&NameTable::default(), &from.weights).unwrap();
    write(&from, &stored, &[], dir, "model.safetensors", DEFAULT_SHARD).unwrap();
}

fn experts() -> NameTable {
    let row = Row {
        ours: vec!["layers.{l}.experts".into()],
        theirs: "layers.{l}.experts.{e}.w".into(),
        layout: Layout::PerExpert,
    };
    NameTable { name: "hub".into(), rows: vec![row], ..NameTable::default() }
}

#[test]
fn a_thousand_differences_are_one_error_of_twenty_lines() {
    let temp = tempfile::tempdir().unwrap();
    plain(temp.path(), &[("layers.0.experts.0.w", &[2, 3]), ("layers.0.experts.1.w", &[3, 2]), ("left.over", &[1])]);
    let weights = [Weight { name: "layers.0.experts".into(), dtype: DType::F32, dims: vec![1000, 2, 3] }];
    let tensors = Tensors::of(temp.path()).unwrap();
    let e = fit(&tensors, temp.path(), &[experts()], &weights).unwrap_err();
    assert_eq!(e.code.id, "K0003");
    assert_eq!(e.message.lines().count(), 22);
    for says in [
        "1000 differences",
        "named as by hub",
        "missing: `layers.0.experts.2.w` [2, 3]",
        "`layers.0.experts.1.w` is [3, 2]; the model has [2, 3]",
        "… and 980 more",
    ] {
        assert!(e.message.contains(says), "{e} should say {says}");
    }
    assert!(e.help.is_some());
}

#[test]
fn experts_must_be_numbered_from_zero_without_a_gap() {
    let temp = tempfile::tempdir().unwrap();
    let tables = [experts()];
    let open = || Checkpoint::open(temp.path(), &Opening { tables: &tables, ..Opening::default() });
    plain(temp.path(), &[("layers.0.experts.0.w", &[2]), ("layers.0.experts.1.w", &[2])]);
    assert_eq!(open().unwrap().weights[0].dims, [2, 2]);
    plain(temp.path(), &[("layers.0.experts.0.w", &[2]), ("layers.0.experts.2.w", &[2])]);
    let e = open().unwrap_err();
    assert!(e.code.id == "K0003" && e.message.contains("experts [1] are missing"), "{e}");
    plain(temp.path(), &[("layers.0.experts.0.w", &[2]), ("layers.0.experts.1.w", &[3])]);
    assert_eq!(open().unwrap_err().code.id, "K0003");
    // The last one is gone, which only other layers can tell.
    plain(
        temp.path(),
        &[("layers.0.experts.0.w", &[2]), ("layers.1.experts.0.w", &[2]), ("layers.1.experts.1.w", &[2])],
    );
    let e = open().unwrap_err();
    assert!(e.message.contains("`layers.0.experts` is [1, 2]; in other layers it is [2, 2]"), "{e}");
}

#[test]
fn a_layer_that_lacks_what_others_have_is_noticed_without_a_model() {
    let temp = tempfile::tempdir().unwrap();
    let open = || Checkpoint::open(temp.path(), &Opening::default());
    let names: Vec<String> =
        [0, 1, 2, 4].iter().flat_map(|l| ["norm", "up"].map(|n| format!("layers.{l}.{n}"))).collect();
    let all: Vec<(&str, &[usize])> = names.iter().map(|n| (n.as_str(), [2usize].as_slice())).collect();
    // A dense first layer and one with more at the end are kinds of their own.
    let odd: &[(&str, &[usize])] =
        &[("layers.0.down", &[2]), ("layers.3.norm", &[2]), ("layers.3.up", &[2]), ("layers.4.eh", &[2])];
    plain(temp.path(), &[&all, odd].concat());
    open().unwrap();
    plain(temp.path(), &all);
    let e = open().unwrap_err();
    assert!(e.message.contains("missing: everything of `layers.3.`"), "{e}");
    plain(temp.path(), &[&all[1..], &odd[1..3]].concat());
    let e = open().unwrap_err();
    assert!(e.code.id == "K0003" && e.message.contains("missing: `layers.0.norm`"), "{e}");
}

#[test]
fn a_base_model_without_the_further_token_says_which_key_leaves_it_out() {
    let temp = tempfile::tempdir().unwrap();
    plain(temp.path(), &[("model.norm.weight", &[2])]);
    let weight = |name: &str| Weight { name: name.into(), dtype: DType::F32, dims: vec![2] };
    let wanted = [weight("model.norm.weight"), weight("model.layers.3.eh_proj.weight")];
    let e = fit(&Tensors::of(temp.path()).unwrap(), temp.path(), &[], &wanted).unwrap_err();
    assert!(e.help.as_ref().is_some_and(|h| h.starts_with("`mtp_num_layers: 0`")), "{e}");
    let wanted = [weight("model.norm.weight"), weight("model.layers.3.up_proj.weight")];
    let e = fit(&Tensors::of(temp.path()).unwrap(), temp.path(), &[], &wanted).unwrap_err();
    assert!(e.help.as_ref().is_some_and(|h| h.starts_with("check that")), "{e}");
}

#[test]
fn copies_are_checked_and_written_beside_what_they_belong_to() {
    let temp = tempfile::tempdir().unwrap();
    let copy =
        |beside: Option<&str>| Copied { theirs: "head".into(), of: "embed".into(), beside: beside.map(Into::into) };
    let table = |beside| NameTable { copies: vec![copy(beside)], ..NameTable::default() };
    let weights = ["embed", "mtp"].map(|n| Weight { name: n.into(), dtype: DType::F32, dims: vec![2, 2] });
    let from = memory(weights.to_vec(), false);
    for (beside, there) in [(None, false), (Some("gone"), false), (Some("mtp"), true)] {
        let stored = map(&table(beside), &weights).unwrap();
        write(&from, &stored, &table(beside).copies, temp.path(), "model.safetensors", DEFAULT_SHARD).unwrap();
        let tensors = Tensors::of(temp.path()).unwrap();
        assert_eq!(tensors.info("head").is_some(), there);
        assert_eq!(fit(&tensors, temp.path(), &[table(beside)], &weights).unwrap().len(), 2);
    }
    // The same name with other values.
    plain(temp.path(), &[("embed", &[2, 2]), ("head", &[2, 2]), ("mtp", &[2, 2])]);
    let tensors = Tensors::of(temp.path()).unwrap();
    let e = fit(&tensors, temp.path(), &[table(None)], &weights).unwrap_err();
    assert!(e.code.id == "K0003" && e.message.contains("`head` differs from `embed`"), "{e}");
}

#[test]
fn rows_that_do_not_suit_their_weights_are_refused() {
    let weight = |n: &str, dims: &[usize]| Weight { name: n.into(), dtype: DType::F32, dims: dims.to_vec() };
    let row = |layout| NameTable {
        rows: vec![Row { ours: vec!["a".into(), "b".into()], theirs: "t".into(), layout }],
        ..NameTable::default()
    };
    let joined = |blocks| Layout::Joined { blocks, shares: vec![1, 1] };
    let stacked = Layout::Experts { experts: 2, flat: true, shares: vec![1, 1] };
    for (layout, a, b) in [
        (joined(Blocks::One), &[2, 3][..], &[2, 4][..]),
        (joined(Blocks::Count(2)), &[3, 3], &[2, 3]),
        (joined(Blocks::One), &[], &[]),
        (stacked.clone(), &[2, 3], &[2, 3]),
        (stacked.clone(), &[2, 3, 4], &[2, 3, 5]),
        (stacked, &[3, 3, 4], &[3, 3, 4]),
    ] {
        let unfit = map(&row(layout), &[weight("a", a), weight("b", b)]).unwrap_err();
        assert_eq!(unfit[0].name, "a");
    }
}
