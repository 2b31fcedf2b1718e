//! What lines look like.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use clap::ValueEnum;

/// How packets are printed; by default as `tcpdump -nn` does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Text or JSON.
    pub form: Form,
    /// All that is known of headers: TTL, checksums and the like (`-v`).
    pub verbose: bool,
    /// Little more than who sends how much to whom (`-q`).
    pub brief: bool,
    /// The link-level header (`-e`).
    pub link_header: bool,
    /// Sequence numbers as they are, not from where the connection began (`-S`).
    pub absolute_numbers: bool,
    /// Checksums as they are, not verified (`-K`).
    pub unverified: bool,
    /// Addresses as they are, even where a name is known (`-n`).
    pub numeric: bool,
    /// The time that a line begins with.
    pub time: Time,
    /// Times to the nanosecond, not to the microsecond.
    pub nanoseconds: bool,
    /// The bytes below a line.
    pub dump: Option<Dump>,
    /// Whether colours tell interfaces apart.
    pub color: Color,
}

/// What a packet becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object on a line of its own.
    Json,
}

/// The time in front of a line; JSON has the whole one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// Of day, where the person is.
    #[default]
    OfDay,
    /// None (`-t`).
    None,
    /// Seconds since 1970 (`-tt`).
    Epoch,
    /// Since the packet before (`-ttt`).
    SincePrevious,
    /// With the date (`-tttt`).
    Date,
    /// Since the first packet (`-ttttt`).
    SinceFirst,
}

impl Time {
    /// As the option `-t`, given so many times, has it.
    pub fn of_option(times: u8) -> Self {
        match times {
            0 => Self::OfDay,
            1 => Self::None,
            2 => Self::Epoch,
            3 => Self::SincePrevious,
            4 => Self::Date,
            _ => Self::SinceFirst,
        }
    }
}

/// Which bytes stand below a line, and how. JSON has them in hexadecimal, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dump {
    /// In which form.
    pub as_what: DumpForm,
    /// With the link-level header (`-xx`, `-XX`, `-AA`).
    pub link_header: bool,
}

impl Dump {
    /// As options with the letters x, X and A have it, given so many times.
    pub fn of_options(hex: u8, hex_and_ascii: u8, ascii: u8) -> Option<Self> {
        let (as_what, times) = match (hex, hex_and_ascii, ascii) {
            (times, 0, 0) => (DumpForm::Hex, times),
            (0, 0, times) => (DumpForm::Ascii, times),
            (hex, both, ascii) => (DumpForm::HexAndAscii, hex.max(both).max(ascii)),
        };
        (times > 0).then_some(Self { as_what, link_header: times > 1 })
    }
}

/// A form of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpForm {
    /// Hexadecimal (`-x`).
    Hex,
    /// Both (`-X`).
    HexAndAscii,
    /// As text (`-A`).
    Ascii,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal that has some, unless `NO_COLOR` is set (see no-color.org).
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether standard output gets colours.
    pub(super) fn is_on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => io::stdout().is_terminal() && !is_without_colors(),
        }
    }
}

/// Whether a terminal gets no colours unless they are asked for: it has none, or the person wants none (no-color.org).
pub fn is_without_colors() -> bool {
    is_dumb() || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether the terminal knows nothing but text.
pub fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}
