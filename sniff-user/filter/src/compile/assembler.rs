//! Instructions with jumps to labels, and the pass that turns labels into distances.

use std::collections::{HashMap, HashSet};

use super::{
    super::ebpf::{Condition, Instruction, Operand, Register, Width},
    Copy, Error,
};

/// A place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// What an instruction of the classic program became in one of its copies.
    At(Copy, usize),
    /// Where a packet with a VLAN tag goes.
    Tagged,
    /// The packet matches.
    Match,
    /// It does not.
    NoMatch,
    /// A place within what one instruction became.
    Local(usize),
}

/// Code that is being written.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<Instruction>,
    places: HashMap<Label, usize>,
    /// Which jump goes where.
    jumps: Vec<(usize, Label)>,
    /// All labels that jumps go to.
    used: HashSet<Label>,
    locals: usize,
}

impl Assembler {
    /// Puts a label here.
    pub fn place(&mut self, label: Label) {
        let before = self.places.insert(label, self.code.len());
        debug_assert_eq!(before, None, "{label:?} is in two places");
    }

    /// A label that no other part of the code uses.
    pub fn local(&mut self) -> Label {
        self.locals += 1;
        Label::Local(self.locals)
    }

    /// Appends an instruction that is no jump.
    pub fn push(&mut self, instruction: Instruction) {
        self.code.push(instruction);
    }

    /// Appends a jump.
    pub fn jump(&mut self, to: Label) {
        self.push_jump(Instruction::Jump { distance: 0 }, to);
    }

    /// Appends a conditional jump.
    pub fn jump_if(&mut self, width: Width, left: Register, condition: Condition, right: Operand, to: Label) {
        let jump = Instruction::JumpIf { width, condition, left, right, distance: 0 };
        self.push_jump(jump, to);
    }

    /// Whether something jumps there.
    pub fn is_used(&self, label: Label) -> bool {
        self.used.contains(&label)
    }

    /// Sets all jumps' distances.
    pub fn finish(mut self) -> Result<Vec<Instruction>, Error> {
        let too_long = Error::TooLong(self.code.len());
        for (at, label) in self.jumps {
            let behind = at + 1;
            // All jumps go forward.
            let to = i16::try_from(self.places[&label] - behind).map_err(|_| too_long)?;
            match &mut self.code[at] {
                Instruction::Jump { distance } | Instruction::JumpIf { distance, .. } => {
                    *distance = to;
                }
                _ => unreachable!("only jumps are noted as such"),
            }
        }
        Ok(self.code)
    }

    fn push_jump(&mut self, jump: Instruction, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.used.insert(to);
        self.code.push(jump);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump_over(count: usize) -> Result<Vec<Instruction>, Error> {
        let mut code = Assembler::default();
        code.jump(Label::NoMatch);
        for _ in 0..count {
            code.push(Instruction::Exit);
        }
        code.place(Label::NoMatch);
        code.push(Instruction::Exit);
        code.finish()
    }

    #[test]
    fn distances_count_from_behind_the_jump() {
        assert_eq!(jump_over(2).unwrap()[0], Instruction::Jump { distance: 2 });
    }

    #[test]
    fn a_distance_has_sixteen_bits() {
        let furthest = Instruction::Jump { distance: i16::MAX };
        assert_eq!(jump_over(32_767).unwrap()[0], furthest);
        assert_eq!(jump_over(32_768).unwrap_err(), Error::TooLong(32_770));
    }
}
