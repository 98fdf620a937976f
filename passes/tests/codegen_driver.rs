//! Kernels compile, load and give the right numbers at every level this machine runs.

use std::ffi::c_void;

use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::llvm::{KernelText, build_shared_object};

type Kernel = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

const ROWS: usize = 13;
const COLS: usize = 100;

fn add() -> KernelText {
    let mlir = format!(
        "func.func @add(%a: memref<{0}xf32>, %b: memref<{0}xf32>, %c: memref<{0}xf32>, %lo: index, %hi: index, %w: index) {{
  %one = arith.constant 1 : index
  scf.for %i = %lo to %hi step %one {{
    %x = memref.load %a[%i] : memref<{0}xf32>
    %y = memref.load %b[%i] : memref<{0}xf32>
    %z = arith.addf %x, %y : f32
    memref.store %z, %c[%i] : memref<{0}xf32>
  }}
  return
}}",
        ROWS * COLS
    );
    KernelText { symbol: "add".into(), mlir, buffers: 3 }
}

fn rms_norm() -> KernelText {
    let mlir = format!(
        "func.func private @norm_scale(%s: f32) -> f32 {{
  %n = arith.constant {COLS}.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %m = arith.divf %s, %n : f32
  %v = arith.addf %m, %eps : f32
  %r = math.sqrt %v : f32
  %one = arith.constant 1.0 : f32
  %q = arith.divf %one, %r : f32
  return %q : f32
}}
func.func @norm(%x: memref<{ROWS}x{COLS}xf32>, %g: memref<{COLS}xbf16>, %y: memref<{ROWS}x{COLS}xbf16>, %lo: index, %hi: index, %w: index) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = arith.constant {COLS} : index
  %zero = arith.constant 0.0 : f32
  scf.for %r = %lo to %hi step %c1 {{
    %sum = scf.for %j = %c0 to %n step %c1 iter_args(%acc = %zero) -> f32 {{
      %v = memref.load %x[%r, %j] : memref<{ROWS}x{COLS}xf32>
      %sq = arith.mulf %v, %v fastmath<fast> : f32
      %next = arith.addf %acc, %sq fastmath<fast> : f32
      scf.yield %next : f32
    }}
    %k = func.call @norm_scale(%sum) : (f32) -> f32
    affine.for %j = 0 to {COLS} {{
      %v = memref.load %x[%r, %j] : memref<{ROWS}x{COLS}xf32>
      %gb = memref.load %g[%j] : memref<{COLS}xbf16>
      %gf = arith.extf %gb : bf16 to f32
      %a = arith.mulf %v, %k : f32
      %b = arith.mulf %a, %gf : f32
      %t = arith.truncf %b : f32 to bf16
      memref.store %t, %y[%r, %j] : memref<{ROWS}x{COLS}xbf16>
    }}
  }}
  return
}}"
    );
    KernelText { symbol: "norm".into(), mlir, buffers: 3 }
}

fn runnable() -> Vec<CpuLevel> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let v4 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let bf16 = v4 && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
    // The kernels here use no tiles, so the highest level needs its vector half only.
    [(CpuLevel::Portable, true), (CpuLevel::Avx2, avx2), (CpuLevel::Avx512, v4), (CpuLevel::Amx, bf16)]
        .into_iter()
        .filter_map(|(level, ok)| ok.then_some(level))
        .collect()
}

#[test]
fn kernels_compute_at_every_level() {
    let folder = tempfile::tempdir().unwrap();
    for level in runnable() {
        let out = folder.path().join(format!("{level}.so"));
        let report = build_shared_object(&[add(), rms_norm()], level, None, &out).unwrap();
        eprintln!("{level}: {report:?}");
        assert_eq!(report.kernels.iter().map(|k| k.symbol.as_str()).collect::<Vec<_>>(), ["add", "norm"]);
        // SAFETY: the library is the one just built; it has no initialisers.
        let library = unsafe { libloading::Library::new(&out) }.unwrap();

        let mut x: Vec<f32> = (0..ROWS * COLS).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        let mut b: Vec<f32> = (0..ROWS * COLS).map(|i| (i * 11 % 29) as f32).collect();
        let mut c = vec![-1.0f32; ROWS * COLS];
        let buffers: [*mut c_void; 3] = [x.as_mut_ptr().cast(), b.as_mut_ptr().cast(), c.as_mut_ptr().cast()];
        // SAFETY: symbol, ABI and buffer sizes are those of the kernel text above.
        unsafe { library.get::<Kernel>(b"add").unwrap()(buffers.as_ptr(), 3, 1290, 0) };
        for i in 0..ROWS * COLS {
            assert_eq!(c[i], if (3..1290).contains(&i) { x[i] + b[i] } else { -1.0 });
        }

        let mut g: Vec<u16> = (0..COLS).map(|j| ((1.0 + j as f32 / 64.0).to_bits() >> 16) as u16).collect();
        let mut y = vec![0u16; ROWS * COLS];
        let buffers: [*mut c_void; 3] = [x.as_mut_ptr().cast(), g.as_mut_ptr().cast(), y.as_mut_ptr().cast()];
        // SAFETY: as above.
        unsafe { library.get::<Kernel>(b"norm").unwrap()(buffers.as_ptr(), 0, ROWS as i64, 0) };
        for r in 0..ROWS {
            let row = &x[r * COLS..(r + 1) * COLS];
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / COLS as f64;
            for j in 0..COLS {
                let gain = f64::from(f32::from_bits(u32::from(g[j]) << 16));
                let want = f64::from(row[j]) / (mean + 1e-5).sqrt() * gain;
                let got = f64::from(f32::from_bits(u32::from(y[r * COLS + j]) << 16));
                assert!((got - want).abs() <= want.abs() / 256.0 + 1e-30, "{level} [{r},{j}]: {got} against {want}");
            }
        }
    }
}

#[test]
fn the_object_does_not_depend_on_timing() {
    let folder = tempfile::tempdir().unwrap();
    let kernels: Vec<KernelText> = (0..6)
        .map(|i| KernelText {
            symbol: format!("add{i}"),
            mlir: add().mlir.replace("@add", &format!("@add{i}")),
            buffers: 3,
        })
        .collect();
    let build = |name: &str| {
        let out = folder.path().join(name);
        build_shared_object(&kernels, CpuLevel::Portable, None, &out).unwrap();
        std::fs::read(out).unwrap()
    };
    assert!(build("a.so") == build("b.so"));
}

#[test]
fn bad_kernels_are_refused_with_what_mlir_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("k.so");
    let error = |kernel: KernelText| build_shared_object(&[kernel], CpuLevel::Portable, None, &out).unwrap_err();

    let text = error(KernelText { symbol: "k".into(), mlir: "func.func @k( {".into(), buffers: 0 });
    assert_eq!(text.code.id, "P0901");
    assert!(text.message.contains("kernel `k`: parsing failed"), "{text}");

    let wrong = error(KernelText { symbol: "add".into(), mlir: add().mlir, buffers: 2 });
    assert!(wrong.message.contains("must take 2 memrefs"), "{wrong}");

    let missing = error(KernelText {
        symbol: "k".into(),
        mlir: "func.func private @gone()\nfunc.func @k(%l: index, %h: index, %w: index) { func.call @gone() : () -> ()\n return }"
            .into(),
        buffers: 0,
    });
    assert_eq!(missing.code.id, "P0903");
    assert!(missing.message.contains("gone"), "{missing}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing may be left behind");
}
