//! Bounds the depth of the syntax tree, and the columns of its queries, before it is built.
//!
//! The parser bounds nesting by parentheses, but `a OR b OR c ...` and `... UNION ALL ...` are
//! parsed in a loop into a tree as deep as the chain is long. Visiting, copying and dropping
//! such a tree recurses, and a stack that overflows ends the whole process.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Code, Error, Result};
use crate::session::parser::position;

/// Operators of one chain, with those of the chains in it. Measured: a debug build on a 2 MiB
/// stack bears 400 and not 800.
pub(super) const CHAIN_MAX: usize = 400;

/// Items of one SELECT list. Planning takes time that grows with their square, and nothing else is
/// done on its thread meanwhile.
///
/// # Source
/// As many columns as a result of PostgreSQL may have (postgresql.org/docs/current/limits.html).
const ITEMS_MAX: usize = 1664;

/// What stands between a pair of parentheses, or outside all.
#[derive(Default)]
struct Level {
    /// UNION and its like; they join whole queries, so nothing resets them.
    sets: usize,
    /// AND and OR since the last comma or clause.
    logic: usize,
    /// Operators since the last AND, OR, comma or clause, and the most that there were.
    others: usize,
    others_max: usize,
    /// The deepest closed parentheses since the last comma or clause.
    inner_max: usize,
    /// The deepest stretch between commas or clauses so far.
    done_max: usize,
    /// Items of the SELECT list, and of what else has commas in this query.
    items: Option<usize>,
}

impl Level {
    fn depth(&self) -> usize {
        let stretch = self.logic + self.others_max + self.inner_max;
        self.sets + stretch.max(self.done_max)
    }

    fn end_stretch(&mut self) {
        self.done_max = self
            .done_max
            .max(self.logic + self.others_max + self.inner_max);
        (self.logic, self.others, self.others_max, self.inner_max) = (0, 0, 0, 0);
    }

    fn count(&mut self, role: Role) {
        match role {
            Role::Set => {
                self.end_stretch();
                self.sets += 1;
            }
            Role::Logic => {
                self.logic += 1;
                self.others = 0;
            }
            Role::Operator => {
                self.others += 1;
                self.others_max = self.others_max.max(self.others);
            }
            Role::Clause => self.end_stretch(),
            Role::Open | Role::Close | Role::Operand => {}
        }
    }
}

/// What a token does to the depth.
#[derive(Clone, Copy)]
enum Role {
    Open,
    Close,
    Set,
    Logic,
    Operator,
    Clause,
    Operand,
}

fn role(token: &Token) -> Role {
    match token {
        Token::LParen | Token::LBracket | Token::LBrace => Role::Open,
        Token::RParen | Token::RBracket | Token::RBrace => Role::Close,
        Token::Comma | Token::SemiColon => Role::Clause,
        Token::Word(word) if word.quote_style.is_none() => match word.keyword {
            Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS => Role::Set,
            Keyword::AND | Keyword::OR | Keyword::XOR => Role::Logic,
            Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::SIMILAR
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::DIV
            | Keyword::NOTNULL
            | Keyword::OVERLAPS
            | Keyword::OPERATOR
            | Keyword::MEMBER => Role::Operator,
            Keyword::SELECT
            | Keyword::FROM
            | Keyword::WHERE
            | Keyword::JOIN
            | Keyword::ON
            | Keyword::BY
            | Keyword::HAVING
            | Keyword::WHEN
            | Keyword::THEN
            | Keyword::ELSE => Role::Clause,
            _ => Role::Operand,
        },
        Token::Word(_)
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::Placeholder(_)
        | Token::Period
        | Token::RArrow
        | Token::Whitespace(_)
        | Token::EOF => Role::Operand,
        // All other tokens are operators, or too rare for the difference to matter.
        _ => Role::Operator,
    }
}

/// Refuses tokens that would become too deep or too wide a tree.
///
/// # Errors
/// `SG1001 syntax-error` at the token that goes too far.
pub(super) fn check(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut open: Vec<Level> = Vec::new();
    let mut level = Level::default();
    for token in tokens {
        match &token.token {
            Token::Word(word) if word.keyword == Keyword::SELECT => level.items = Some(1),
            Token::Comma => level.items = level.items.map(|items| items + 1),
            _ => {}
        }
        if level.items.is_some_and(|items| items > ITEMS_MAX) {
            return Err(Error::new(
                Code::SyntaxError,
                format!("the SELECT has more than {ITEMS_MAX} items"),
            )
            .with_hint("Select fewer columns, or make rows of them with unnest or UNION ALL.")
            .with_position(position(token.span.start)));
        }
        match role(&token.token) {
            Role::Open => open.push(std::mem::take(&mut level)),
            Role::Close => {
                let inner = level.depth() + 1;
                level = open.pop().unwrap_or_default();
                level.inner_max = level.inner_max.max(inner);
            }
            role => level.count(role),
        }
        if level.depth() > CHAIN_MAX {
            return Err(Error::new(
                Code::SyntaxError,
                format!("more than {CHAIN_MAX} operators are chained"),
            )
            .with_hint("Write IN (...) for many values, or put them into a table and join it.")
            .with_position(position(token.span.start)));
        }
    }
    Ok(())
}
