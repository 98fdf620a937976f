//! Compiles kernels: MLIR text → llvm dialect → LLVM IR → O3 → object → one shared object.
//!
//! This is, with `ir/src/mlir`, the only place that imports melior.
//!
//! # The kernel ABI
//! Every kernel is exported as `void SYMBOL(void **buffers, int64_t lo, int64_t hi, int64_t worker)` and computes the
//! rows or tiles `lo..hi` of its grid; `worker` selects its part of a scratch buffer. Buffers of one call must not
//! overlap (they become `noalias` arguments): a kernel that works in place takes that buffer once.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use athanor_ir::target::CpuLevel;
use athanor_ir::{Diagnostic, Result};
use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};

use super::cache::Cache;
use super::{BAD_KERNEL, link, llvm_c};

/// One kernel as MLIR text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelText {
    /// Exported name; letters, digits and `_`.
    pub symbol: String,
    /// `func.func @<symbol>(%b0: memref<static>, …, %lo: index, %hi: index, %worker: index)` with [`Self::buffers`]
    /// contiguous memrefs, plus private helpers whose names start with `<symbol>_`.
    pub mlir: String,
    /// Number of memref parameters.
    pub buffers: usize,
}

/// Time spent on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelTiming {
    /// The kernel.
    pub symbol: String,
    /// MLIR: parsing and passes, and translation to LLVM IR.
    pub lower: Duration,
    /// LLVM's optimiser.
    pub optimize: Duration,
    /// Instruction selection and object emission.
    pub emit: Duration,
    /// Size of the object in bytes.
    pub bytes: usize,
}

impl KernelTiming {
    /// That of a kernel that was compiled before.
    fn none(kernel: &KernelText, object: &[u8]) -> Self {
        let (symbol, zero) = (kernel.symbol.clone(), Duration::ZERO);
        Self { symbol, lower: zero, optimize: zero, emit: zero, bytes: object.len() }
    }
}

/// What a build took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildReport {
    /// Per kernel, in the order given.
    pub kernels: Vec<KernelTiming>,
    /// The linker.
    pub link: Duration,
    /// Wall-clock time of the whole build.
    pub total: Duration,
}

/// Compiles `kernels` for `level` and links them into the shared object `out`; those that `cache` has are not compiled again.
///
/// Kernels are compiled on two threads, each with contexts of its own; the result does not depend on which thread
/// compiled what. Duplicate symbols are refused. On an error nothing is written.
pub fn build_shared_object(
    kernels: &[KernelText],
    level: CpuLevel,
    cache: Option<&Cache>,
    out: &Path,
) -> Result<BuildReport> {
    build_with(kernels, Instructions::of(level), cache, out)
}

/// As [`build_shared_object`], with the instructions given rather than those of a level: what a level's kernels need beyond
/// them is made of several narrower ones.
///
/// # Errors
/// [`BAD_KERNEL`]; among others when kernels need tiles and there are none.
pub fn build_with(
    kernels: &[KernelText],
    instructions: Instructions,
    cache: Option<&Cache>,
    out: &Path,
) -> Result<BuildReport> {
    let start = Instant::now();
    let mut names = std::collections::HashSet::new();
    for kernel in kernels {
        if !names.insert(kernel.symbol.as_str()) {
            return Diagnostic::error(&BAD_KERNEL, format!("two kernels are called `{}`", kernel.symbol)).err();
        }
    }
    let compiled = compile_all(kernels, instructions, cache)?;
    let (timings, objects): (Vec<_>, Vec<_>) = compiled.into_iter().unzip();
    let link_start = Instant::now();
    link::link(&objects, out)?;
    Ok(BuildReport { kernels: timings, link: link_start.elapsed(), total: start.elapsed() })
}

type Compiled = Result<(KernelTiming, Vec<u8>)>;

/// What turns a text into an object, beside LLVM: part of what an object was made of.
const SOURCES: [&str; 2] = [include_str!("llvm.rs"), include_str!("llvm_c.rs")];

fn compile_all(
    kernels: &[KernelText],
    instructions: Instructions,
    cache: Option<&Cache>,
) -> Result<Vec<(KernelTiming, Vec<u8>)>> {
    let made_of = format!("{instructions:?} {:?}", llvm_c::version());
    let of = |k: &KernelText| format!("{made_of} {} {}", k.symbol, k.buffers);
    let known = |k: &KernelText| {
        let object = cache?.get(&[SOURCES[0], SOURCES[1], &of(k), &k.mlir])?;
        Some((KernelTiming::none(k, &object), object))
    };
    let found: Vec<Option<(KernelTiming, Vec<u8>)>> = kernels.iter().map(known).collect();
    let missing: Vec<usize> = (0..kernels.len()).filter(|i| found[*i].is_none()).collect();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Compiled)>> = Mutex::new(Vec::with_capacity(missing.len()));
    let work = || {
        if missing.is_empty() {
            return;
        }
        let compiler = match Compiler::new(instructions) {
            Ok(compiler) => compiler,
            Err(e) => {
                done.lock().unwrap_or_else(PoisonError::into_inner).push((usize::MAX, Err(e)));
                return;
            }
        };
        loop {
            let Some(i) = missing.get(next.fetch_add(1, Ordering::Relaxed)).copied() else { return };
            let result = compiler.compile(&kernels[i]);
            if let (Some(cache), Ok((_, object))) = (cache, &result) {
                cache.put(&[SOURCES[0], SOURCES[1], &of(&kernels[i]), &kernels[i].mlir], object);
            }
            done.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..missing.len().min(2) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.extend(found.into_iter().enumerate().filter_map(|(i, known)| known.map(|k| (i, Ok(k)))));
    // In the order given, so that the object and the reported error do not depend on the threads' timing.
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What compiled code may use. Chosen by instructions, never by the name of the host's CPU: virtual machines mask the
/// model number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instructions {
    /// Vectors and scalars are those of this level.
    pub vectors: CpuLevel,
    /// Tile registers and products of bf16 on them; below AMX's vectors also AVX-NE-CONVERT.
    pub tiles: bool,
}

impl Instructions {
    /// Those of `level`.
    pub fn of(level: CpuLevel) -> Self {
        Self { vectors: level, tiles: level == CpuLevel::Amx }
    }

    /// CPU and feature string for LLVM.
    fn target(self) -> (&'static str, &'static str) {
        let cpu = match self.vectors {
            CpuLevel::Portable => "x86-64-v2",
            CpuLevel::Avx2 => "x86-64-v3",
            // Not `sapphirerapids` with AMX: it would allow instructions that are not part of the level (avx512-fp16, cldemote).
            CpuLevel::Avx512 | CpuLevel::Amx => "x86-64-v4",
        };
        let features = match (self.vectors, self.tiles) {
            (CpuLevel::Amx, true) => "+avx512bf16,+avx512vnni,+amx-tile,+amx-bf16",
            (CpuLevel::Amx, false) => "+avx512bf16,+avx512vnni",
            // Stores of bf16 need conversions that are instructions, or the compiler would call a library for them.
            (_, true) => "+amx-tile,+amx-bf16,+avxneconvert",
            (_, false) => "",
        };
        (cpu, features)
    }
}

/// Passes from loops and vectors to the llvm dialect.
fn pipeline(vectors: CpuLevel) -> String {
    // Below AMX there is no bf16 instruction: conversions become integer arithmetic, never library calls.
    let bf16 = if vectors < CpuLevel::Amx { "arith-expand{include-bf16=true}," } else { "" };
    format!(
        "builtin.module(convert-vector-to-scf,lower-affine,convert-scf-to-cf,{bf16}expand-strided-metadata,lower-affine,\
         convert-func-to-llvm{{use-bare-ptr-memref-call-conv=true}},convert-vector-to-llvm,convert-to-llvm,\
         reconcile-unrealized-casts)"
    )
}

/// One thread's contexts.
struct Compiler {
    context: Context,
    messages: std::rc::Rc<std::cell::RefCell<Vec<String>>>,
    machine: llvm_c::Machine,
    instructions: Instructions,
}

impl Compiler {
    fn new(instructions: Instructions) -> Result<Self> {
        let registry = DialectRegistry::new();
        register_all_dialects(&registry);
        register_all_passes();
        let context = Context::new_with_registry(&registry, false);
        register_all_llvm_translations(&context);
        let messages = std::rc::Rc::default();
        let sink = std::rc::Rc::clone(&messages);
        context.attach_diagnostic_handler(move |diagnostic| {
            let sink: &std::cell::RefCell<Vec<String>> = &sink;
            sink.borrow_mut().push(format!("{}: {diagnostic}", diagnostic.location()));
            true
        });
        let (cpu, features) = instructions.target();
        let machine = llvm_c::Machine::x86(cpu, features).map_err(|e| Diagnostic::error(&BAD_KERNEL, e))?;
        Ok(Self { context, messages, machine, instructions })
    }

    fn compile(&self, kernel: &KernelText) -> Compiled {
        self.messages.borrow_mut().clear();
        let refuse = |stage: &str, detail: &str| {
            let mut said = self.messages.borrow().join("; ");
            if !detail.is_empty() {
                said = if said.is_empty() { detail.into() } else { format!("{detail}; {said}") };
            }
            Box::new(Diagnostic::error(&BAD_KERNEL, format!("kernel `{}`: {stage} failed: {said}", kernel.symbol)))
        };
        let name_ok = kernel.symbol.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !name_ok || kernel.symbol.is_empty() {
            return Err(refuse("naming", "a symbol is letters, digits and `_`"));
        }

        let start = Instant::now();
        let mut module = Module::parse(&self.context, &kernel.mlir).ok_or_else(|| refuse("parsing", ""))?;
        let manager = PassManager::new(&self.context);
        parse_pass_pipeline(manager.as_operation_pass_manager(), &pipeline(self.instructions.vectors))
            .map_err(|e| refuse("reading the pipeline", &e.to_string()))?;
        manager.run(&mut module).map_err(|_| refuse("lowering", ""))?;
        let context = llvm_c::Context::new();
        // SAFETY: the module is live, and `new` has registered the translations in its context.
        let llvm = unsafe {
            llvm_c::Module::translate(module.as_operation().to_raw().ptr.cast(), &context, &self.machine)
                .ok_or_else(|| refuse("translation to LLVM IR", ""))?
        };
        drop(module);
        self.finish_signature(&llvm, kernel).map_err(|e| refuse("checking the signature", &e))?;
        let lower = start.elapsed();

        let start = Instant::now();
        llvm.optimize(&self.machine).map_err(|e| refuse("optimisation", &e))?;
        let optimize = start.elapsed();

        let start = Instant::now();
        let object = llvm.object(&self.machine).map_err(|e| refuse("code generation", &e))?;
        let emit = start.elapsed();
        let timing = KernelTiming { symbol: kernel.symbol.clone(), lower, optimize, emit, bytes: object.len() };
        Ok((timing, object))
    }

    /// Adds the exported wrapper, and the attributes that let LLVM use the level.
    fn finish_signature(&self, llvm: &llvm_c::Module<'_>, kernel: &KernelText) -> std::result::Result<(), String> {
        let missing = || format!("no function `@{}`", kernel.symbol);
        let body = llvm.function(&kernel.symbol).ok_or_else(missing)?;
        let params = llvm.pointer_params(&kernel.symbol).ok_or_else(missing)?;
        let expected: Vec<bool> = (0..kernel.buffers + 3).map(|i| i < kernel.buffers).collect();
        if params != expected {
            return Err(format!(
                "the function must take {} memrefs, then lo, hi and worker as index; it has {} parameters, {} of them \
                 memrefs",
                kernel.buffers,
                params.len(),
                params.iter().filter(|p| **p).count()
            ));
        }
        llvm.internalize();
        for i in 0..kernel.buffers {
            llvm.set_enum(body, i as u32 + 1, "noalias");
        }
        // Inlined into the wrapper the arguments would lose what `noalias` says about them.
        llvm.set_enum(body, llvm_c::FUNCTION_INDEX, "noinline");
        llvm.wrap(body, &kernel.symbol, kernel.buffers);
        let (cpu, features) = self.instructions.target();
        for function in llvm.definitions() {
            llvm.set_string(function, "target-cpu", cpu);
            llvm.set_string(function, "target-features", features);
            llvm.set_enum(function, llvm_c::FUNCTION_INDEX, "nounwind");
            if self.instructions.vectors >= CpuLevel::Avx512 {
                llvm.set_string(function, "tune-cpu", "sapphirerapids");
                // Tuning tables prefer 256 bits for the sake of old CPUs' clock; here 512 wins.
                llvm.set_string(function, "prefer-vector-width", "512");
            }
        }
        Ok(())
    }
}
