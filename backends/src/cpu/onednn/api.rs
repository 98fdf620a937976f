//! The few functions of oneDNN's C API that a matrix product needs, resolved at run time from version 2 or 3.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use libloading::Library;

/// A pointer of the library.
pub type Raw = *mut c_void;
type Status = c_int;

/// `dnnl_bf16`.
pub const BF16: c_int = 2;
/// `dnnl_f32`.
pub const F32: c_int = 3;
const CPU_ENGINE: c_int = 1;
const IN_ORDER: u32 = 1;
const QUERY_IMPLEMENTATION: c_int = 8;
const ARG_SRC: c_int = 1;
const ARG_WEIGHTS: c_int = 33;
const ARG_DST: c_int = 17;
const ARG_SCRATCHPAD: c_int = 80;
const QUERY_SCRATCHPAD: c_int = 136;
const SCRATCHPAD_BY_USER: c_int = 1;
const MAX_NDIMS: usize = 12;

/// `dnnl_exec_arg_t`.
#[repr(C)]
struct ExecArg {
    arg: c_int,
    memory: Raw,
}

/// What a layout is made from.
pub struct Layout {
    /// Rows and columns.
    pub dims: [i64; 2],
    /// Strides in elements.
    pub strides: [i64; 2],
    /// [`F32`] or [`BF16`].
    pub dtype: c_int,
}

/// `dnnl_memory_desc_t`: in version 2 a structure of 696 bytes that the caller owns, in version 3 a pointer.
enum MemoryDesc {
    V2(Box<[u64; 128]>),
    V3(Raw),
}

impl MemoryDesc {
    fn as_ptr(&self) -> *const c_void {
        match self {
            Self::V2(bytes) => bytes.as_ptr().cast(),
            Self::V3(raw) => *raw,
        }
    }
}

type InitByStrides = unsafe extern "C" fn(*mut c_void, c_int, *const i64, c_int, *const i64) -> Status;
type MatmulDescInit =
    unsafe extern "C" fn(*mut c_void, *const c_void, *const c_void, *const c_void, *const c_void) -> Status;
type PrimitiveDescCreate = unsafe extern "C" fn(*mut Raw, *const c_void, *const c_void, Raw, *const c_void) -> Status;
type AppendSumV2 = unsafe extern "C" fn(Raw, f32) -> Status;
type CreateWithStrides = unsafe extern "C" fn(*mut Raw, c_int, *const i64, c_int, *const i64) -> Status;
type MatmulPrimitiveDescCreate = unsafe extern "C" fn(
    *mut Raw,
    Raw,
    *const c_void,
    *const c_void,
    *const c_void,
    *const c_void,
    *const c_void,
) -> Status;
type AppendSumV3 = unsafe extern "C" fn(Raw, f32, i32, c_int) -> Status;
type Destroy = unsafe extern "C" fn(Raw) -> Status;
type Create = unsafe extern "C" fn(*mut Raw) -> Status;

/// Where versions 2 and 3 differ.
enum Version {
    V2 {
        init_by_strides: InitByStrides,
        matmul_desc_init: MatmulDescInit,
        primitive_desc_create: PrimitiveDescCreate,
        append_sum: AppendSumV2,
    },
    V3 {
        create_with_strides: CreateWithStrides,
        memory_desc_destroy: Destroy,
        matmul_primitive_desc_create: MatmulPrimitiveDescCreate,
        append_sum: AppendSumV3,
    },
}

/// The opened library and a CPU engine.
pub struct Api {
    version: Version,
    engine: Raw,
    engine_destroy: Destroy,
    stream_create: unsafe extern "C" fn(*mut Raw, Raw, u32) -> Status,
    stream_destroy: Destroy,
    memory_create: unsafe extern "C" fn(*mut Raw, *const c_void, Raw, *mut c_void) -> Status,
    memory_destroy: Destroy,
    attr_create: Create,
    attr_destroy: Destroy,
    attr_set_scratchpad_mode: unsafe extern "C" fn(Raw, c_int) -> Status,
    primitive_desc_query_md: unsafe extern "C" fn(Raw, c_int, c_int) -> *const c_void,
    memory_desc_get_size: unsafe extern "C" fn(*const c_void) -> usize,
    attr_set_post_ops: unsafe extern "C" fn(Raw, Raw) -> Status,
    post_ops_create: Create,
    post_ops_destroy: Destroy,
    primitive_desc_query: unsafe extern "C" fn(Raw, c_int, c_int, *mut c_void) -> Status,
    primitive_desc_destroy: Destroy,
    primitive_create: unsafe extern "C" fn(*mut Raw, Raw) -> Status,
    primitive_destroy: Destroy,
    primitive_execute: unsafe extern "C" fn(Raw, Raw, c_int, *const ExecArg) -> Status,
    /// OpenMP's setting for the calling thread, in whichever runtime the library was linked with.
    omp_set_num_threads: Option<unsafe extern "C" fn(c_int)>,
    /// Keeps the code mapped; last, so that it goes last.
    _library: Library,
}

// SAFETY: oneDNN's engines and primitives may be used by several threads at once; streams and memories, which may not,
// never leave the call that makes them.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

impl Api {
    /// Opens `name`; `None` when it is missing or is not oneDNN 2 or 3 with a CPU engine.
    pub fn open(name: &std::ffi::OsStr) -> Option<Self> {
        // SAFETY: loading oneDNN runs its initialisers, which have no preconditions.
        let library = unsafe { Library::new(name) }.ok()?;
        // SAFETY: every symbol is given the type that the header of its version declares.
        unsafe {
            macro_rules! symbol {
                ($name:literal) => {
                    *library.get($name).ok()?
                };
            }
            let version = if library.get::<Destroy>(b"dnnl_matmul_primitive_desc_create").is_ok() {
                Version::V3 {
                    create_with_strides: symbol!(b"dnnl_memory_desc_create_with_strides"),
                    memory_desc_destroy: symbol!(b"dnnl_memory_desc_destroy"),
                    matmul_primitive_desc_create: symbol!(b"dnnl_matmul_primitive_desc_create"),
                    append_sum: symbol!(b"dnnl_post_ops_append_sum"),
                }
            } else {
                Version::V2 {
                    init_by_strides: symbol!(b"dnnl_memory_desc_init_by_strides"),
                    matmul_desc_init: symbol!(b"dnnl_matmul_desc_init"),
                    primitive_desc_create: symbol!(b"dnnl_primitive_desc_create"),
                    append_sum: symbol!(b"dnnl_post_ops_append_sum"),
                }
            };
            let engine_create: unsafe extern "C" fn(*mut Raw, c_int, usize) -> Status = symbol!(b"dnnl_engine_create");
            let mut engine = ptr::null_mut();
            if engine_create(&raw mut engine, CPU_ENGINE, 0) != 0 {
                return None;
            }
            Some(Self {
                version,
                engine,
                engine_destroy: symbol!(b"dnnl_engine_destroy"),
                stream_create: symbol!(b"dnnl_stream_create"),
                stream_destroy: symbol!(b"dnnl_stream_destroy"),
                memory_create: symbol!(b"dnnl_memory_create"),
                memory_destroy: symbol!(b"dnnl_memory_destroy"),
                attr_create: symbol!(b"dnnl_primitive_attr_create"),
                attr_destroy: symbol!(b"dnnl_primitive_attr_destroy"),
                attr_set_scratchpad_mode: symbol!(b"dnnl_primitive_attr_set_scratchpad_mode"),
                primitive_desc_query_md: symbol!(b"dnnl_primitive_desc_query_md"),
                memory_desc_get_size: symbol!(b"dnnl_memory_desc_get_size"),
                attr_set_post_ops: symbol!(b"dnnl_primitive_attr_set_post_ops"),
                post_ops_create: symbol!(b"dnnl_post_ops_create"),
                post_ops_destroy: symbol!(b"dnnl_post_ops_destroy"),
                primitive_desc_query: symbol!(b"dnnl_primitive_desc_query"),
                primitive_desc_destroy: symbol!(b"dnnl_primitive_desc_destroy"),
                primitive_create: symbol!(b"dnnl_primitive_create"),
                primitive_destroy: symbol!(b"dnnl_primitive_destroy"),
                primitive_execute: symbol!(b"dnnl_primitive_execute"),
                omp_set_num_threads: library.get(b"omp_set_num_threads").ok().map(|s| *s),
                _library: library,
            })
        }
    }

    /// Major version of the library.
    pub fn major(&self) -> u32 {
        match self.version {
            Version::V2 { .. } => 2,
            Version::V3 { .. } => 3,
        }
    }

    /// Makes the library run single-threaded when called from this thread: our pool does the splitting.
    pub fn one_thread(&self) {
        if let Some(set) = self.omp_set_num_threads {
            // SAFETY: sets a per-thread variable of the OpenMP runtime.
            unsafe { set(1) };
        }
    }

    fn describe(&self, layout: &Layout) -> Result<MemoryDesc, Status> {
        // The library reads `dnnl_dims_t`, an array of MAX_NDIMS.
        let (mut dims, mut strides) = ([0i64; MAX_NDIMS], [0i64; MAX_NDIMS]);
        dims[..2].copy_from_slice(&layout.dims);
        strides[..2].copy_from_slice(&layout.strides);
        // SAFETY: arrays are of the size the library reads; the version 2 structure fits its box.
        unsafe {
            match &self.version {
                Version::V2 { init_by_strides, .. } => {
                    let mut bytes = Box::new([0u64; 128]);
                    let target = bytes.as_mut_ptr().cast();
                    check(init_by_strides(target, 2, dims.as_ptr(), layout.dtype, strides.as_ptr()))?;
                    Ok(MemoryDesc::V2(bytes))
                }
                Version::V3 { create_with_strides, .. } => {
                    let mut raw = ptr::null_mut();
                    check(create_with_strides(&raw mut raw, 2, dims.as_ptr(), layout.dtype, strides.as_ptr()))?;
                    Ok(MemoryDesc::V3(raw))
                }
            }
        }
    }

    fn free_desc(&self, desc: &MemoryDesc) {
        if let (Version::V3 { memory_desc_destroy, .. }, MemoryDesc::V3(raw)) = (&self.version, desc) {
            // SAFETY: made by `describe`, freed once by the owner.
            unsafe { memory_desc_destroy(*raw) };
        }
    }

    /// Makes the product of layouts `a`, `b` into `c`, adding to `c` when `accumulate`.
    pub fn matmul(&self, a: &Layout, b: &Layout, c: &Layout, accumulate: bool) -> Result<Matmul, Status> {
        let mut descs = Vec::with_capacity(3);
        let mut made = Err(0);
        for layout in [a, b, c] {
            match self.describe(layout) {
                Ok(desc) => descs.push(desc),
                Err(e) => made = Err(e),
            }
        }
        if let [a, b, c] = &descs[..] {
            made = self.primitive(a, b, c, accumulate);
        }
        match made {
            Ok(made) => Ok(Matmul { descs, ..made }),
            Err(e) => {
                for desc in &descs {
                    self.free_desc(desc);
                }
                Err(e)
            }
        }
    }

    fn primitive(&self, a: &MemoryDesc, b: &MemoryDesc, c: &MemoryDesc, accumulate: bool) -> Result<Matmul, Status> {
        let (mut attr, mut ops) = (ptr::null_mut(), ptr::null_mut());
        let (mut desc, mut primitive) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: out-pointers are valid, inputs live, and what is made here is freed here except the primitive.
        unsafe {
            let made = (|| {
                check((self.attr_create)(&raw mut attr))?;
                // The library's own scratchpad is sized in the thread that creates the primitive, and too small, or
                // missing, in the others.
                check((self.attr_set_scratchpad_mode)(attr, SCRATCHPAD_BY_USER))?;
                if accumulate {
                    check((self.post_ops_create)(&raw mut ops))?;
                    check(match &self.version {
                        Version::V2 { append_sum, .. } => append_sum(ops, 1.0),
                        Version::V3 { append_sum, .. } => append_sum(ops, 1.0, 0, 0),
                    })?;
                    check((self.attr_set_post_ops)(attr, ops))?;
                }
                match &self.version {
                    Version::V2 { matmul_desc_init, primitive_desc_create, .. } => {
                        let mut op = Box::new([0u64; 512]);
                        let target = op.as_mut_ptr().cast();
                        check(matmul_desc_init(target, a.as_ptr(), b.as_ptr(), ptr::null(), c.as_ptr()))?;
                        check(primitive_desc_create(&raw mut desc, target, attr, self.engine, ptr::null()))?;
                    }
                    Version::V3 { matmul_primitive_desc_create, .. } => check(matmul_primitive_desc_create(
                        &raw mut desc,
                        self.engine,
                        a.as_ptr(),
                        b.as_ptr(),
                        ptr::null(),
                        c.as_ptr(),
                        attr,
                    ))?,
                }
                let mut name: *const c_char = ptr::null();
                check((self.primitive_desc_query)(desc, QUERY_IMPLEMENTATION, 0, (&raw mut name).cast()))?;
                let name = if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into() };
                let scratch = (self.primitive_desc_query_md)(desc, QUERY_SCRATCHPAD, 0);
                let scratch_bytes = if scratch.is_null() { 0 } else { (self.memory_desc_get_size)(scratch) };
                check((self.primitive_create)(&raw mut primitive, desc))?;
                Ok(Matmul { primitive, desc, descs: vec![], scratch, scratch_bytes, implementation: name })
            })();
            if made.is_err() && !desc.is_null() {
                (self.primitive_desc_destroy)(desc);
            }
            if !ops.is_null() {
                (self.post_ops_destroy)(ops);
            }
            if !attr.is_null() {
                (self.attr_destroy)(attr);
            }
            made
        }
    }

    /// Runs `matmul` in this thread.
    ///
    /// # Safety
    /// `data` points to operands a, b and c of the layouts that `matmul` was made with, `scratch` to
    /// [`Matmul::scratch_bytes`] that nobody else uses.
    pub unsafe fn execute(&self, matmul: &Matmul, data: [*mut c_void; 3], scratch: *mut c_void) -> Result<(), Status> {
        let mut stream = ptr::null_mut();
        let descs = matmul.descs.iter().map(MemoryDesc::as_ptr).chain([matmul.scratch]);
        let kinds = [ARG_SRC, ARG_WEIGHTS, ARG_DST, ARG_SCRATCHPAD];
        let mut args = kinds.map(|arg| ExecArg { arg, memory: ptr::null_mut() });
        let count = if matmul.scratch_bytes > 0 { 4 } else { 3 };
        // SAFETY: stream and memories live until the end of the block; the caller vouches for the data. The CPU engine
        // has finished when `execute` returns.
        unsafe {
            let done = (|| {
                check((self.stream_create)(&raw mut stream, self.engine, IN_ORDER))?;
                let places = data.into_iter().chain([scratch]);
                for ((arg, desc), place) in args[..count].iter_mut().zip(descs).zip(places) {
                    check((self.memory_create)(&raw mut arg.memory, desc, self.engine, place))?;
                }
                check((self.primitive_execute)(matmul.primitive, stream, count as c_int, args.as_ptr()))
            })();
            for arg in args.iter().filter(|a| !a.memory.is_null()) {
                (self.memory_destroy)(arg.memory);
            }
            if !stream.is_null() {
                (self.stream_destroy)(stream);
            }
            done
        }
    }

    /// Frees `matmul`.
    pub fn free(&self, matmul: &Matmul) {
        // SAFETY: the caller, the cache's owner, frees each primitive once.
        unsafe {
            (self.primitive_destroy)(matmul.primitive);
            (self.primitive_desc_destroy)(matmul.desc);
        }
        for desc in &matmul.descs {
            self.free_desc(desc);
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // SAFETY: made by `open`; primitives are freed by their owner before.
        unsafe { (self.engine_destroy)(self.engine) };
    }
}

/// A compiled product.
pub struct Matmul {
    primitive: Raw,
    /// Owns the layout of the scratchpad.
    desc: Raw,
    descs: Vec<MemoryDesc>,
    scratch: *const c_void,
    /// Memory that one execution needs, 64-byte aligned.
    pub scratch_bytes: usize,
    /// The library's name for the implementation it chose.
    pub implementation: String,
}

// SAFETY: a primitive is immutable after creation and may be executed by several threads.
unsafe impl Send for Matmul {}
// SAFETY: as above.
unsafe impl Sync for Matmul {}

fn check(status: Status) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(status) }
}
