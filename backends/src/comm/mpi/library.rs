//! The few functions of MPI that we call, from a library opened at run time: Open MPI, MPICH and its relatives, or the standard
//! ABI of MPI 5. They differ in the type of handles and in the values of constants.

use super::super::{MPI_FAILED, NO_MPI};
use crate::launch::Launcher;
use athanor_ir::{Diagnostic, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::error::Error;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// A handle of a transfer under way, widened.
pub(super) type Request = u64;

/// The calls, free of the types of the library. None of them blocks but [`Mpi::init`] and [`Mpi::finalize`]; one thread calls
/// at a time.
pub(super) trait Mpi: Send {
    /// Starts MPI for threads that call one at a time, and makes errors be returned. Blocks until all ranks have come.
    fn init(&self) -> Result<()>;
    /// Ends MPI. Blocks until all ranks have come.
    fn finalize(&self);
    /// Ends all ranks, this one included, if the library is able to.
    fn abort(&self, status: i32);
    /// Own rank and the number of ranks.
    fn world(&self) -> Result<(usize, usize)>;
    /// Begins to send bytes to rank `to`.
    ///
    /// # Safety
    /// The data stays in place, and is not written, until [`Mpi::test`] says that the transfer is over.
    unsafe fn send(&self, data: *const [u8], to: usize, tag: i32) -> Result<Request>;
    /// Begins to receive bytes from rank `from`, or from any.
    ///
    /// # Safety
    /// The data stays in place, and nobody touches it, until [`Mpi::test`] says that the transfer is over.
    unsafe fn receive(&self, data: *mut [u8], from: Option<usize>, tag: i32) -> Result<Request>;
    /// Whether the transfer is over. The handle must not be used again if it is, or after an error.
    fn test(&self, request: &mut Request) -> Result<bool>;
    /// Asks to take a receive back; the transfer is over soon after.
    fn cancel(&self, request: &mut Request);
}

const ABI: &str = "libmpi_abi.so.1";
const OPEN_MPI: &str = "libmpi.so.40";
const MPICH: &str = "libmpi.so.12";
/// MPICH's library as Debian calls it.
const MPICH_DEBIAN: &str = "libmpich.so.12";

/// Names of libraries to try for ranks of `launcher`, the likeliest first.
pub(super) fn names(launcher: Launcher) -> Vec<String> {
    let names = match launcher {
        Launcher::OpenMpi => [OPEN_MPI, ABI, MPICH, MPICH_DEBIAN],
        _ => [ABI, MPICH, MPICH_DEBIAN, OPEN_MPI],
    };
    names.map(str::to_owned).to_vec()
}

/// Opens the first of `names` that is an MPI library.
///
/// # Errors
/// [`NO_MPI`] with the reason for each name.
pub(super) fn open(names: &[String]) -> Result<(String, Box<dyn Mpi>)> {
    let mut reasons = vec![];
    for name in names {
        // SAFETY: constructors of an MPI library only set up its own state. Plug-ins of Open MPI look its symbols up globally.
        match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) } {
            // The loader's own words, which begin with the name, are behind those of the crate.
            Err(e) => reasons.push(e.source().map_or_else(|| format!("{name}: {e}"), ToString::to_string)),
            Ok(library) => {
                // Threads and handlers of the library may live until the process ends: it is never closed.
                let library: &'static Library = Box::leak(Box::new(library));
                match table(library, name) {
                    Ok(mpi) => return Ok((name.clone(), mpi)),
                    Err(symbol) => reasons.push(format!("{name}: no MPI library, it has no {symbol}")),
                }
            }
        }
    }
    Diagnostic::error(&NO_MPI, format!("no MPI library can be opened: {}", reasons.join("; ")))
        .help("install one (on Debian: apt-get install openmpi-bin, or mpich), or name its folder in LD_LIBRARY_PATH")
        .err()
}

/// The calls of a library; or the symbol that it lacks.
fn table(library: &Library, name: &str) -> std::result::Result<Box<dyn Mpi>, &'static str> {
    // The file with the standard ABI may be a shell around one with the library's own: its name decides.
    if name.contains("mpi_abi") {
        let handle = |value: usize| Pointer(ptr::without_provenance_mut(value));
        let constants = Constants {
            world: handle(0x101),
            byte: handle(0x247),
            errors_return: handle(0x143),
            serialized: 2048,
            any_source: -1,
        };
        return Ok(Box::new(Table::load(library, constants)?));
    }
    // SAFETY: only the address of the symbol is taken.
    let object = |name: &str| unsafe { library.get::<*mut c_void>(name) }.map(|s| Pointer(s.as_raw_ptr()));
    if let Ok(world) = object("ompi_mpi_comm_world") {
        let constants = Constants {
            world,
            byte: object("ompi_mpi_byte").map_err(|_| "ompi_mpi_byte")?,
            errors_return: object("ompi_mpi_errors_return").map_err(|_| "ompi_mpi_errors_return")?,
            serialized: 2,
            any_source: -1,
        };
        return Ok(Box::new(Table::load(library, constants)?));
    }
    let constants = Constants::<c_int> {
        world: 0x4400_0000,
        byte: 0x4c00_010d,
        errors_return: 0x5400_0001,
        serialized: 2,
        any_source: -2,
    };
    Ok(Box::new(Table::load(library, constants)?))
}

/// A handle as the library has it.
trait Handle: Copy + Send + 'static {
    fn widen(self) -> Request;
    fn narrow(request: Request) -> Self;
}

/// Handles of Open MPI and of the standard ABI.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Pointer(*mut c_void);

// SAFETY: the library looks behind it, we never do; it lives as long as the library.
unsafe impl Send for Pointer {}

impl Handle for Pointer {
    fn widen(self) -> Request {
        self.0.expose_provenance() as Request
    }

    fn narrow(request: Request) -> Self {
        Self(ptr::with_exposed_provenance_mut(request as usize))
    }
}

/// Handles of MPICH.
impl Handle for c_int {
    fn widen(self) -> Request {
        self as u32 as Request
    }

    fn narrow(request: Request) -> Self {
        request as u32 as Self
    }
}

struct Constants<H> {
    world: H,
    byte: H,
    errors_return: H,
    serialized: c_int,
    any_source: c_int,
}

/// Room for an `MPI_Status` of any library; the largest has 32 bytes.
type Status = [u64; 16];

struct Table<H> {
    constants: Constants<H>,
    initialized: unsafe extern "C" fn(*mut c_int) -> c_int,
    init_thread: unsafe extern "C" fn(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
    abort: unsafe extern "C" fn(H, c_int) -> c_int,
    set_errhandler: unsafe extern "C" fn(H, H) -> c_int,
    rank: unsafe extern "C" fn(H, *mut c_int) -> c_int,
    size: unsafe extern "C" fn(H, *mut c_int) -> c_int,
    isend: unsafe extern "C" fn(*const c_void, c_int, H, c_int, c_int, H, *mut H) -> c_int,
    irecv: unsafe extern "C" fn(*mut c_void, c_int, H, c_int, c_int, H, *mut H) -> c_int,
    test: unsafe extern "C" fn(*mut H, *mut c_int, *mut Status) -> c_int,
    cancel: unsafe extern "C" fn(*mut H) -> c_int,
    error_string: unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int,
}

fn symbol<T: Copy>(library: &Library, name: &'static str) -> std::result::Result<T, &'static str> {
    // SAFETY: the types in `Table` are those of the MPI standard, with the handles of this library.
    unsafe { library.get::<T>(name) }.map(|s| *s).map_err(|_| name)
}

impl<H: Handle> Table<H> {
    fn load(library: &Library, constants: Constants<H>) -> std::result::Result<Self, &'static str> {
        Ok(Self {
            constants,
            initialized: symbol(library, "MPI_Initialized")?,
            init_thread: symbol(library, "MPI_Init_thread")?,
            finalize: symbol(library, "MPI_Finalize")?,
            abort: symbol(library, "MPI_Abort")?,
            set_errhandler: symbol(library, "MPI_Comm_set_errhandler")?,
            rank: symbol(library, "MPI_Comm_rank")?,
            size: symbol(library, "MPI_Comm_size")?,
            isend: symbol(library, "MPI_Isend")?,
            irecv: symbol(library, "MPI_Irecv")?,
            test: symbol(library, "MPI_Test")?,
            cancel: symbol(library, "MPI_Cancel")?,
            error_string: symbol(library, "MPI_Error_string")?,
        })
    }

    /// Turns the status of a call into an error with the library's text.
    fn check(&self, call: &str, status: c_int) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // MPI_MAX_ERROR_STRING is 512 at most.
        let (mut text, mut length) = ([0u8; 1024], 0);
        // SAFETY: the text is large enough for any library.
        unsafe { (self.error_string)(status, text.as_mut_ptr().cast(), &raw mut length) };
        let text = String::from_utf8_lossy(&text[..(length.max(0) as usize).min(text.len())]);
        failed(format!("{call}: {}", text.trim()))
    }
}

fn failed<T>(text: String) -> Result<T> {
    Diagnostic::error(&MPI_FAILED, text).help("resume from the last checkpoint; see what MPI itself has printed").err()
}

/// A number of bytes, a rank or a tag as MPI takes it.
fn int(value: usize) -> Result<c_int> {
    c_int::try_from(value).or_else(|_| failed(format!("{value} is too large for a call of MPI")))
}

impl<H: Handle> Mpi for Table<H> {
    fn init(&self) -> Result<()> {
        let (mut before, mut level) = (0, 0);
        // SAFETY: allowed at any time.
        self.check("MPI_Initialized", unsafe { (self.initialized)(&raw mut before) })?;
        if before != 0 {
            return failed("MPI_Init_thread: MPI was started before in this process, which it allows once".into());
        }
        // SAFETY: not started yet; null arguments are allowed.
        let status =
            unsafe { (self.init_thread)(ptr::null_mut(), ptr::null_mut(), self.constants.serialized, &raw mut level) };
        self.check("MPI_Init_thread", status)?;
        if level < self.constants.serialized {
            return failed(format!(
                "MPI_Init_thread: this library is for one thread only (level {level} instead of {})",
                self.constants.serialized
            ));
        }
        // SAFETY: started.
        let status = unsafe { (self.set_errhandler)(self.constants.world, self.constants.errors_return) };
        self.check("MPI_Comm_set_errhandler", status)
    }

    fn finalize(&self) {
        // SAFETY: started, and the caller has ended its transfers.
        unsafe { (self.finalize)() };
    }

    fn abort(&self, status: i32) {
        // SAFETY: started.
        unsafe { (self.abort)(self.constants.world, status) };
    }

    fn world(&self) -> Result<(usize, usize)> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: started.
        self.check("MPI_Comm_rank", unsafe { (self.rank)(self.constants.world, &raw mut rank) })?;
        // SAFETY: started.
        self.check("MPI_Comm_size", unsafe { (self.size)(self.constants.world, &raw mut size) })?;
        Ok((rank as usize, size as usize))
    }

    unsafe fn send(&self, data: *const [u8], to: usize, tag: i32) -> Result<Request> {
        let (count, to) = (int(data.len())?, int(to)?);
        let (byte, world) = (self.constants.byte, self.constants.world);
        let mut request = H::narrow(0);
        // SAFETY: the caller keeps the data in place.
        let status = unsafe { (self.isend)(data.cast(), count, byte, to, tag, world, &raw mut request) };
        self.check("MPI_Isend", status).map(|()| request.widen())
    }

    unsafe fn receive(&self, data: *mut [u8], from: Option<usize>, tag: i32) -> Result<Request> {
        let count = int(data.len())?;
        let from = from.map_or(Ok(self.constants.any_source), int)?;
        let (byte, world) = (self.constants.byte, self.constants.world);
        let mut request = H::narrow(0);
        // SAFETY: the caller keeps the data in place.
        let status = unsafe { (self.irecv)(data.cast(), count, byte, from, tag, world, &raw mut request) };
        self.check("MPI_Irecv", status).map(|()| request.widen())
    }

    fn test(&self, request: &mut Request) -> Result<bool> {
        let (mut handle, mut done, mut status) = (H::narrow(*request), 0, [0; 16]);
        // SAFETY: the handle is of a transfer that is not over.
        let error = unsafe { (self.test)(&raw mut handle, &raw mut done, &raw mut status) };
        *request = handle.widen();
        self.check("MPI_Test", error).map(|()| done != 0)
    }

    fn cancel(&self, request: &mut Request) {
        let mut handle = H::narrow(*request);
        // SAFETY: the handle is of a receive that is not over.
        unsafe { (self.cancel)(&raw mut handle) };
        *request = handle.widen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launcher_decides_which_library_is_tried_first() {
        assert_eq!(names(Launcher::OpenMpi)[0], OPEN_MPI);
        assert_eq!(names(Launcher::Hydra)[0], ABI);
        assert_eq!(names(Launcher::Hydra).len(), 4);
    }

    #[test]
    fn libraries_that_are_missing_or_are_no_mpi_are_named_with_their_reasons() {
        let names = ["libno-such-mpi.so.9", "libc.so.6"].map(str::to_owned);
        let e = *open(&names).err().unwrap();
        assert_eq!(e.code, &NO_MPI);
        assert!(e.message.contains("libno-such-mpi.so.9: cannot open"), "{}", e.message);
        assert!(e.message.ends_with("libc.so.6: no MPI library, it has no MPI_Initialized"), "{}", e.message);
        assert!(e.help.unwrap().contains("apt-get install openmpi-bin"));
    }

    #[test]
    fn handles_of_every_width_come_back() {
        for value in [0x1c00_0001i32, -1, 0x6c00_0000] {
            assert_eq!(c_int::narrow(value.widen()), value);
        }
        assert_eq!(Pointer::narrow(0x7fff_1234_5678).widen(), 0x7fff_1234_5678);
    }
}
