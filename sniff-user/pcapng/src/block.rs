//! The frame that all blocks share (draft section 3.1), and the options in it (section 3.5).

/// Ends a list of options.
const OPT_ENDOFOPT: u16 = 0;
/// A comment; every block may have one.
pub(super) const OPT_COMMENT: u16 = 1;

/// Length of the shortest block, which has no body: type, and length twice.
pub const MIN_BLOCK_LEN: usize = 12;
/// Most bytes that the value of an option can have.
pub(super) const MAX_OPTION_LEN: usize = u16::MAX as usize;

/// The blocks at the start of `bytes`, whole; what is cut off or no block ends them.
pub fn blocks(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
        let (block, rest) = bytes.split_at_checked(len).filter(|(block, _)| block.len() >= MIN_BLOCK_LEN)?;
        bytes = rest;
        Some(block)
    })
}

/// Parts of whole blocks, `bytes`, in order and of at most `most` bytes, but for a longer block, which is one by itself.
/// What is cut off or no block is in the last part. Blocks are looked at only where there is more than one part.
pub fn parts(mut bytes: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.len() <= most {
            return Some(std::mem::take(&mut bytes)).filter(|part| !part.is_empty());
        }
        let ends = blocks(bytes).scan(0, |end, block| {
            *end += block.len();
            Some(*end)
        });
        let mut ends = ends.peekable();
        let first = ends.peek().copied().unwrap_or(bytes.len());
        let (part, rest) = bytes.split_at(ends.take_while(|&end| end <= most).last().unwrap_or(first));
        bytes = rest;
        (!part.is_empty()).then_some(part)
    })
}

/// A block being appended to a buffer: fixed fields first, then options, then [`Block::end`].
pub(super) struct Block<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Block<'a> {
    /// Begins a block at the end of `out`.
    pub(super) fn begin(out: &'a mut Vec<u8>, block_type: u32) -> Self {
        let start = out.len();
        out.extend(block_type.to_ne_bytes());
        // The total length, which `end` fills in.
        out.extend([0; 4]);
        Self { out, start }
    }

    /// Appends a part of the fixed fields, which must come to a multiple of 4 bytes.
    pub(super) fn field<const N: usize>(&mut self, bytes: [u8; N]) {
        self.out.extend(bytes);
    }

    /// Appends an option; its value has at most [`MAX_OPTION_LEN`] bytes.
    pub(super) fn option(&mut self, code: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).expect("values are fixed in size, or cut by their writer");
        self.out.extend(code.to_ne_bytes());
        self.out.extend(len.to_ne_bytes());
        self.out.extend(value);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    /// Appends a string option, cut to what an option can hold.
    pub(super) fn text(&mut self, code: u16, text: &str) {
        self.option(code, cut(text, MAX_OPTION_LEN).as_bytes());
    }

    /// Appends a string option when there is one.
    pub(super) fn optional_text(&mut self, code: u16, text: Option<&str>) {
        if let Some(text) = text {
            self.text(code, text);
        }
    }

    /// Appends `opt_comment` when there is one.
    pub(super) fn comment(&mut self, comment: Option<&str>) {
        self.optional_text(OPT_COMMENT, comment);
    }

    /// Ends records that are laid out as options are, in front of the options.
    pub(super) fn end_records(&mut self) {
        self.option(OPT_ENDOFOPT, &[]);
    }

    /// Ends the options and the block.
    pub(super) fn end(mut self) {
        self.option(OPT_ENDOFOPT, &[]);
        let Self { out, start } = self;
        let len = u32::try_from(out.len() + 4 - start).expect("a block holds some KiB of options");
        out[start + 4..start + 8].copy_from_slice(&len.to_ne_bytes());
        out.extend(len.to_ne_bytes());
    }
}

/// A timestamp as blocks and options have it: upper half first, each half host-endian (draft section 4.3).
pub(super) fn timestamp(ns: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&((ns >> 32) as u32).to_ne_bytes());
    bytes[4..].copy_from_slice(&(ns as u32).to_ne_bytes());
    bytes
}

/// The longest start of `text` that has at most `max` bytes and ends between characters: a writer must not write
/// half of one (draft section 3.6.3).
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
