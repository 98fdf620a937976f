//! Writing to standard output, whose reader may go away (`athanor explain | head`).

use std::io::{ErrorKind, Write};

/// Writes `text`; ends the process quietly when nobody reads any more.
pub fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        let code = if e.kind() == ErrorKind::BrokenPipe {
            0
        } else {
            eprintln!("athanor: cannot write to standard output: {e}");
            1
        };
        std::process::exit(code);
    }
}

/// `println!` for a reader that may go away.
macro_rules! say {
    ($($arg:tt)*) => {{
        let mut line = format!($($arg)*);
        line.push('\n');
        crate::output::emit(&line);
    }};
}
pub(crate) use say;
