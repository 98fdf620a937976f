//! The part of LLVM's C API that turns a lowered module into an object: declarations, and owners that free what they hold.
//!
//! LLVM is linked by `mlir-sys` (through melior), which declares MLIR's half of the API only.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;

macro_rules! handles {
    ($($name:ident),*) => { $(
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub *mut c_void);
    )* };
}
handles!(ContextRef, ModuleRef, TargetRef, MachineRef, DataRef, ValueRef, TypeRef, AttrRef, BlockRef, BuilderRef);
handles!(BufferRef, ErrorRef, OptionsRef);

/// `LLVMObjectFile`.
const OBJECT_FILE: c_int = 1;
/// `LLVMCodeGenLevelAggressive`.
const AGGRESSIVE: c_int = 3;
/// `LLVMRelocPIC`.
const PIC: c_int = 2;
/// `LLVMCodeModelDefault`.
const DEFAULT_CODE_MODEL: c_int = 0;
/// `LLVMAttributeFunctionIndex`.
pub const FUNCTION_INDEX: c_uint = u32::MAX;
/// `LLVMInternalLinkage`.
pub const INTERNAL_LINKAGE: c_int = 8;
/// `LLVMPointerTypeKind`.
pub const POINTER_KIND: c_int = 12;

unsafe extern "C" {
    fn mlirTranslateModuleToLLVMIR(module: *mut c_void, context: ContextRef) -> ModuleRef;

    fn LLVMGetVersion(major: *mut c_uint, minor: *mut c_uint, patch: *mut c_uint);
    fn LLVMInitializeX86TargetInfo();
    fn LLVMInitializeX86Target();
    fn LLVMInitializeX86TargetMC();
    fn LLVMInitializeX86AsmPrinter();

    fn LLVMContextCreate() -> ContextRef;
    fn LLVMContextDispose(context: ContextRef);
    fn LLVMDisposeModule(module: ModuleRef);
    fn LLVMDisposeMessage(message: *mut c_char);
    fn LLVMSetTarget(module: ModuleRef, triple: *const c_char);
    fn LLVMSetModuleDataLayout(module: ModuleRef, layout: DataRef);
    fn LLVMGetFirstFunction(module: ModuleRef) -> ValueRef;
    fn LLVMGetNextFunction(function: ValueRef) -> ValueRef;
    fn LLVMGetNamedFunction(module: ModuleRef, name: *const c_char) -> ValueRef;
    fn LLVMIsDeclaration(value: ValueRef) -> c_int;
    fn LLVMSetLinkage(value: ValueRef, linkage: c_int);
    fn LLVMSetValueName2(value: ValueRef, name: *const c_char, len: usize);
    fn LLVMCountParams(function: ValueRef) -> c_uint;
    fn LLVMGetParam(function: ValueRef, index: c_uint) -> ValueRef;
    fn LLVMTypeOf(value: ValueRef) -> TypeRef;
    fn LLVMGetTypeKind(ty: TypeRef) -> c_int;
    fn LLVMGlobalGetValueType(global: ValueRef) -> TypeRef;
    fn LLVMGetEnumAttributeKindForName(name: *const c_char, len: usize) -> c_uint;
    fn LLVMCreateEnumAttribute(context: ContextRef, kind: c_uint, value: u64) -> AttrRef;
    fn LLVMCreateStringAttribute(
        context: ContextRef,
        key: *const c_char,
        key_len: c_uint,
        value: *const c_char,
        value_len: c_uint,
    ) -> AttrRef;
    fn LLVMAddAttributeAtIndex(function: ValueRef, index: c_uint, attribute: AttrRef);

    fn LLVMPointerTypeInContext(context: ContextRef, space: c_uint) -> TypeRef;
    fn LLVMInt64TypeInContext(context: ContextRef) -> TypeRef;
    fn LLVMVoidTypeInContext(context: ContextRef) -> TypeRef;
    fn LLVMFunctionType(result: TypeRef, params: *const TypeRef, count: c_uint, vararg: c_int) -> TypeRef;
    fn LLVMAddFunction(module: ModuleRef, name: *const c_char, ty: TypeRef) -> ValueRef;
    fn LLVMAppendBasicBlockInContext(context: ContextRef, function: ValueRef, name: *const c_char) -> BlockRef;
    fn LLVMCreateBuilderInContext(context: ContextRef) -> BuilderRef;
    fn LLVMDisposeBuilder(builder: BuilderRef);
    fn LLVMPositionBuilderAtEnd(builder: BuilderRef, block: BlockRef);
    fn LLVMConstInt(ty: TypeRef, value: u64, signed: c_int) -> ValueRef;
    fn LLVMBuildGEP2(
        builder: BuilderRef,
        ty: TypeRef,
        base: ValueRef,
        indices: *const ValueRef,
        count: c_uint,
        name: *const c_char,
    ) -> ValueRef;
    fn LLVMBuildLoad2(builder: BuilderRef, ty: TypeRef, pointer: ValueRef, name: *const c_char) -> ValueRef;
    fn LLVMBuildCall2(
        builder: BuilderRef,
        ty: TypeRef,
        function: ValueRef,
        args: *const ValueRef,
        count: c_uint,
        name: *const c_char,
    ) -> ValueRef;
    fn LLVMBuildRetVoid(builder: BuilderRef) -> ValueRef;

    fn LLVMGetTargetFromTriple(triple: *const c_char, target: *mut TargetRef, error: *mut *mut c_char) -> c_int;
    fn LLVMCreateTargetMachine(
        target: TargetRef,
        triple: *const c_char,
        cpu: *const c_char,
        features: *const c_char,
        level: c_int,
        relocation: c_int,
        code_model: c_int,
    ) -> MachineRef;
    fn LLVMDisposeTargetMachine(machine: MachineRef);
    fn LLVMCreateTargetDataLayout(machine: MachineRef) -> DataRef;
    fn LLVMDisposeTargetData(data: DataRef);
    fn LLVMTargetMachineEmitToMemoryBuffer(
        machine: MachineRef,
        module: ModuleRef,
        kind: c_int,
        error: *mut *mut c_char,
        out: *mut BufferRef,
    ) -> c_int;
    fn LLVMGetBufferStart(buffer: BufferRef) -> *const c_char;
    fn LLVMGetBufferSize(buffer: BufferRef) -> usize;
    fn LLVMDisposeMemoryBuffer(buffer: BufferRef);

    fn LLVMCreatePassBuilderOptions() -> OptionsRef;
    fn LLVMPassBuilderOptionsSetLoopVectorization(options: OptionsRef, on: c_int);
    fn LLVMPassBuilderOptionsSetSLPVectorization(options: OptionsRef, on: c_int);
    fn LLVMPassBuilderOptionsSetLoopInterleaving(options: OptionsRef, on: c_int);
    fn LLVMPassBuilderOptionsSetLoopUnrolling(options: OptionsRef, on: c_int);
    fn LLVMDisposePassBuilderOptions(options: OptionsRef);
    fn LLVMRunPasses(module: ModuleRef, passes: *const c_char, machine: MachineRef, options: OptionsRef) -> ErrorRef;
    fn LLVMGetErrorMessage(error: ErrorRef) -> *mut c_char;
    fn LLVMDisposeErrorMessage(message: *mut c_char);
}

/// Major, minor and patch version of LLVM.
pub fn version() -> [c_uint; 3] {
    let [mut major, mut minor, mut patch] = [0; 3];
    // SAFETY: it writes the three numbers.
    unsafe { LLVMGetVersion(&raw mut major, &raw mut minor, &raw mut patch) };
    [major, minor, patch]
}

/// Registers the x86 code generator once per process.
pub fn initialize_x86() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: plain registration functions; `Once` keeps two threads from running them together.
    ONCE.call_once(|| unsafe {
        LLVMInitializeX86TargetInfo();
        LLVMInitializeX86Target();
        LLVMInitializeX86TargetMC();
        LLVMInitializeX86AsmPrinter();
    });
}

fn c(text: &str) -> CString {
    // Interior NULs cannot occur in the constants and checked symbols passed here; an empty name is then refused by LLVM.
    CString::new(text).unwrap_or_default()
}

fn take_message(message: *mut c_char) -> String {
    if message.is_null() {
        return "no message".into();
    }
    // SAFETY: LLVM hands over a NUL-terminated message that is ours to free.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        LLVMDisposeMessage(message);
        text
    }
}

/// A target machine for one CPU.
pub struct Machine {
    raw: MachineRef,
    triple: CString,
}

impl Machine {
    /// A machine for x86-64 Linux with `cpu` and the feature string `features`, aggressive code generation, PIC.
    pub fn x86(cpu: &str, features: &str) -> Result<Self, String> {
        initialize_x86();
        let triple = c("x86_64-unknown-linux-gnu");
        let (mut target, mut error) = (TargetRef(ptr::null_mut()), ptr::null_mut());
        // SAFETY: the strings outlive the calls; `target` and `error` are valid out-pointers.
        unsafe {
            if LLVMGetTargetFromTriple(triple.as_ptr(), &raw mut target, &raw mut error) != 0 {
                return Err(take_message(error));
            }
            let (cpu, features) = (c(cpu), c(features));
            let raw = LLVMCreateTargetMachine(
                target,
                triple.as_ptr(),
                cpu.as_ptr(),
                features.as_ptr(),
                AGGRESSIVE,
                PIC,
                DEFAULT_CODE_MODEL,
            );
            if raw.0.is_null() { Err("LLVM has no x86-64 target machine".into()) } else { Ok(Self { raw, triple }) }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: created by `x86` and freed once.
        unsafe { LLVMDisposeTargetMachine(self.raw) }
    }
}

/// An LLVM context; modules borrow it.
pub struct Context(ContextRef);

impl Context {
    /// A fresh context.
    pub fn new() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { LLVMContextCreate() })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: modules borrow the context, so they are gone.
        unsafe { LLVMContextDispose(self.0) }
    }
}

/// A module of LLVM IR.
pub struct Module<'c> {
    raw: ModuleRef,
    context: &'c Context,
}

impl<'c> Module<'c> {
    /// Translates a module that is wholly in the llvm dialect; `operation` is its raw `MlirOperation` pointer.
    ///
    /// # Safety
    /// `operation` must point to a live `builtin.module` whose context has the LLVM translations registered.
    pub unsafe fn translate(operation: *mut c_void, context: &'c Context, machine: &Machine) -> Option<Self> {
        // SAFETY: the caller vouches for `operation`; the context is live.
        let raw = unsafe { mlirTranslateModuleToLLVMIR(operation, context.0) };
        if raw.0.is_null() {
            return None;
        }
        // SAFETY: `raw` is a live module; the layout is copied into it.
        unsafe {
            LLVMSetTarget(raw, machine.triple.as_ptr());
            let layout = LLVMCreateTargetDataLayout(machine.raw);
            LLVMSetModuleDataLayout(raw, layout);
            LLVMDisposeTargetData(layout);
        }
        Some(Self { raw, context })
    }

    /// All functions that have a body.
    pub fn definitions(&self) -> Vec<ValueRef> {
        let mut found = vec![];
        // SAFETY: walks the module's own list, which is not changed meanwhile.
        unsafe {
            let mut function = LLVMGetFirstFunction(self.raw);
            while !function.0.is_null() {
                if LLVMIsDeclaration(function) == 0 {
                    found.push(function);
                }
                function = LLVMGetNextFunction(function);
            }
        }
        found
    }

    /// The function called `name`.
    pub fn function(&self, name: &str) -> Option<ValueRef> {
        // SAFETY: the module is live.
        let found = unsafe { LLVMGetNamedFunction(self.raw, c(name).as_ptr()) };
        (!found.0.is_null()).then_some(found)
    }

    /// Adds the string attribute `key=value` to `function`.
    pub fn set_string(&self, function: ValueRef, key: &str, value: &str) {
        // SAFETY: lengths are those of the strings; `function` is of this module.
        unsafe {
            let attribute = LLVMCreateStringAttribute(
                self.context.0,
                key.as_ptr().cast(),
                key.len() as c_uint,
                value.as_ptr().cast(),
                value.len() as c_uint,
            );
            LLVMAddAttributeAtIndex(function, FUNCTION_INDEX, attribute);
        }
    }

    /// Adds the enum attribute `name` to `function` at `index` ([`FUNCTION_INDEX`], or 1 + the parameter's number).
    pub fn set_enum(&self, function: ValueRef, index: c_uint, name: &str) {
        // SAFETY: as in `set_string`.
        unsafe {
            let kind = LLVMGetEnumAttributeKindForName(name.as_ptr().cast(), name.len());
            LLVMAddAttributeAtIndex(function, index, LLVMCreateEnumAttribute(self.context.0, kind, 0));
        }
    }

    /// Hides every function from the linker.
    pub fn internalize(&self) {
        for function in self.definitions() {
            // SAFETY: `function` is of this module.
            unsafe { LLVMSetLinkage(function, INTERNAL_LINKAGE) }
        }
    }

    /// For each parameter of the function `name`, whether it is a pointer.
    pub fn pointer_params(&self, name: &str) -> Option<Vec<bool>> {
        let function = self.function(name)?;
        // SAFETY: `function` is of this module; indices are below the count.
        unsafe {
            let count = LLVMCountParams(function);
            Some((0..count).map(|i| LLVMGetTypeKind(LLVMTypeOf(LLVMGetParam(function, i))) == POINTER_KIND).collect())
        }
    }

    /// Renames `body` to `<symbol>_body` and adds `void symbol(ptr* buffers, i64 lo, i64 hi, i64 worker)`, which calls it.
    ///
    /// `body` must take `buffers` pointers and then three i64.
    pub fn wrap(&self, body: ValueRef, symbol: &str, buffers: usize) -> ValueRef {
        let inner = format!("{symbol}_body");
        let none = c("");
        // SAFETY: everything is made in this module's context; the caller has checked the body's parameters.
        unsafe {
            LLVMSetValueName2(body, inner.as_ptr().cast(), inner.len());
            let pointer = LLVMPointerTypeInContext(self.context.0, 0);
            let word = LLVMInt64TypeInContext(self.context.0);
            let params = [pointer, word, word, word];
            let ty = LLVMFunctionType(LLVMVoidTypeInContext(self.context.0), params.as_ptr(), 4, 0);
            let wrapper = LLVMAddFunction(self.raw, c(symbol).as_ptr(), ty);
            let builder = LLVMCreateBuilderInContext(self.context.0);
            LLVMPositionBuilderAtEnd(builder, LLVMAppendBasicBlockInContext(self.context.0, wrapper, none.as_ptr()));
            let table = LLVMGetParam(wrapper, 0);
            let mut args: Vec<ValueRef> = (0..buffers)
                .map(|i| {
                    let index = LLVMConstInt(word, i as u64, 0);
                    let slot = LLVMBuildGEP2(builder, pointer, table, &raw const index, 1, none.as_ptr());
                    LLVMBuildLoad2(builder, pointer, slot, none.as_ptr())
                })
                .collect();
            args.extend((1..4).map(|i| LLVMGetParam(wrapper, i)));
            let body_type = LLVMGlobalGetValueType(body);
            LLVMBuildCall2(builder, body_type, body, args.as_ptr(), args.len() as c_uint, none.as_ptr());
            LLVMBuildRetVoid(builder);
            LLVMDisposeBuilder(builder);
            wrapper
        }
    }

    /// Runs LLVM's O3 pipeline with both vectorisers.
    pub fn optimize(&self, machine: &Machine) -> Result<(), String> {
        // SAFETY: module and machine are live; the error, if any, is consumed once.
        unsafe {
            let options = LLVMCreatePassBuilderOptions();
            LLVMPassBuilderOptionsSetLoopVectorization(options, 1);
            LLVMPassBuilderOptionsSetSLPVectorization(options, 1);
            LLVMPassBuilderOptionsSetLoopInterleaving(options, 1);
            LLVMPassBuilderOptionsSetLoopUnrolling(options, 1);
            let error = LLVMRunPasses(self.raw, c("default<O3>").as_ptr(), machine.raw, options);
            LLVMDisposePassBuilderOptions(options);
            if error.0.is_null() {
                return Ok(());
            }
            let message = LLVMGetErrorMessage(error);
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            LLVMDisposeErrorMessage(message);
            Err(text)
        }
    }

    /// The module as a relocatable object.
    pub fn object(&self, machine: &Machine) -> Result<Vec<u8>, String> {
        let (mut error, mut buffer) = (ptr::null_mut(), BufferRef(ptr::null_mut()));
        // SAFETY: out-pointers are valid; the buffer is copied before it is freed.
        unsafe {
            if LLVMTargetMachineEmitToMemoryBuffer(machine.raw, self.raw, OBJECT_FILE, &raw mut error, &raw mut buffer)
                != 0
            {
                return Err(take_message(error));
            }
            let bytes =
                std::slice::from_raw_parts(LLVMGetBufferStart(buffer).cast::<u8>(), LLVMGetBufferSize(buffer)).to_vec();
            LLVMDisposeMemoryBuffer(buffer);
            Ok(bytes)
        }
    }
}

impl Drop for Module<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `translate` and freed once.
        unsafe { LLVMDisposeModule(self.raw) }
    }
}
