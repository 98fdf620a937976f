//! Round trips, and every way in which a directory is not a plan.

use super::*;
use crate::toy;
use athanor_ir::plan::{Action, GemmSpec, Kernel, MatRef};
use athanor_ir::{DType, Op};

fn save(dir: &Path, plan: &Plan, kernels: Option<&[u8]>) {
    let w = Writer::create(dir).unwrap();
    if let Some(k) = kernels {
        fs::write(w.kernels(), k).unwrap();
    }
    w.commit(plan).unwrap();
}

fn with_kernels() -> Plan {
    let mut plan = toy::plan(&toy::Toy::default());
    let r = MatRef { dtype: DType::F32, row_stride: 4, col_stride: 1 };
    let spec = GemmSpec { m: 4, n: 4, k: 4, a: r, b: r, c: r, accumulate: true };
    let kernel = |name: &str, kind| Kernel { name: name.into(), kind, flops: 1, bytes: 2 };
    plan.kernels.push(kernel("g", KernelKind::Gemm { spec, fallback: Some(1) }));
    plan.kernels.push(kernel("k", KernelKind::Generated { symbol: "k_1".into(), grid: 3 }));
    plan
}

#[test]
fn a_plan_survives_its_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("plan");
    for (plan, kernels) in [(toy::plan(&toy::Toy::default()), None), (with_kernels(), Some(&b"object"[..]))] {
        save(&dir, &plan, kernels);
        let got = read(&dir).unwrap();
        assert_eq!(got.plan, plan);
        assert_eq!(got.kernels.is_some(), kernels.is_some());
        assert_eq!(read(&dir.join(PLAN_JSON)).unwrap().plan, plan);
    }
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing is left beside the plan");
}

#[test]
fn what_is_no_plan_is_not_replaced() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("notes.txt"), "mine").unwrap();
    assert_eq!(Writer::create(temp.path()).unwrap_err().code.id, "R0004");
    assert_eq!(Writer::create(&temp.path().join("notes.txt")).unwrap_err().code.id, "R0004");
    drop(Writer::create(&temp.path().join("plan")).unwrap());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "an abandoned plan leaves nothing");
}

#[test]
fn damage_is_coded_and_located() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("plan");
    assert_eq!(read(&dir).unwrap_err().code.id, "R0001");
    save(&dir, &with_kernels(), Some(b"object"));
    let json = fs::read_to_string(dir.join(PLAN_JSON)).unwrap();
    let expect = |text: &str, code: &str, says: &str| {
        fs::write(dir.join(PLAN_JSON), text).unwrap();
        let e = read(&dir).unwrap_err();
        assert_eq!(e.code.id, code, "{e}");
        assert!(e.message.contains(says), "{e}");
    };
    let version = |v: u32| format!("\"version\": {v}");
    let next = VERSION + 1;
    expect(&json.replacen(&version(VERSION), &version(next), 1), "R0002", &format!("version {next}"));
    expect(&json.replacen("\"model\"", "\"modell\"", 1), "R0003", "modell");
    expect(&json[..json.len() / 2], "R0003", "plan.json:");
    expect(&json.replacen("\"arena_bytes\": ", "\"arena_bytes\": 1", 1), "R0005", "plan.json has changed");
    fs::write(dir.join(PLAN_JSON), &json).unwrap();
    fs::write(dir.join(KERNELS_SO), b"other").unwrap();
    assert!(read(&dir).unwrap_err().message.contains("kernels.so has changed"));
    fs::remove_file(dir.join(CHECKSUMS)).unwrap();
    assert_eq!(read(&dir).unwrap_err().code.id, "R0001");
}

#[test]
fn a_step_of_any_form_is_read_back() {
    let text = serde_json::to_string(&[
        Action::Kernel(3),
        Action::Op(Op::Cast),
        Action::Op(Op::Slice { dim: 0, start: 1, len: 2 }),
    ]);
    let back: Vec<Action> = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!(back[0], Action::Kernel(3));
    assert_eq!(back[2], Action::Op(Op::Slice { dim: 0, start: 1, len: 2 }));
}
