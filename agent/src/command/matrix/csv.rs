//! The matrix as CSV, for programs: a line for each connection.
//!
//! The last column says what is known of the connection, as the marks of the table do. What is
//! only perhaps allowed, and what rules admit whose other end is not in the input, has lines of
//! its own: a list without them would say that it is denied.

use std::borrow::Cow;
use std::io::{self, Write};

use npc_compiler::policy::Direction;
use npc_compiler::verdict::matrix::{self, Matrix};

use super::elsewhere::Elsewhere;
use super::list::{self, AddressStyle, outside};
use super::table::{OUTSIDE, TextMatrix};

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
enum RowState {
    /// It is allowed from some replica to some replica.
    Allowed,
    /// What of that does not hold for all replicas.
    Differs,
    /// It may be allowed besides: the input does not say.
    Unknown,
    /// A rule admits it, and no pod of the input is its other end.
    Elsewhere,
}

impl RowState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Differs => "differs",
            Self::Unknown => "unknown",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// One line for each connection. An end outside is `outside`, or its addresses as an ipBlock has
/// them: `0.0.0.0/0 except 10.0.0.0/8`.
pub(super) fn write(matrix: &Matrix<'_>, view: &TextMatrix<'_>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "from,to,family,protocol,ports,state")?;
    let allowed = matrix.connections().chain(matrix.pending());
    allowed.map(|row| inside(&row, RowState::Allowed)).try_for_each(|line| writeln!(out, "{line}"))?;
    matrix.differs().map(|row| inside(&row, RowState::Differs)).try_for_each(|line| writeln!(out, "{line}"))?;
    matrix.unknowns().map(|row| inside(&row, RowState::Unknown)).try_for_each(|line| writeln!(out, "{line}"))?;
    let states = [RowState::Allowed, RowState::Differs, RowState::Unknown];
    for (rows, state) in outside(matrix, view, AddressStyle::Blocks).iter().zip(states) {
        rows.iter().map(|row| with_outside(row, state)).try_for_each(|line| writeln!(out, "{line}"))?;
    }
    view.elsewhere().iter().map(with_elsewhere).try_for_each(|line| writeln!(out, "{line}"))?;
    out.flush()
}

fn inside(row: &matrix::Connection, state: RowState) -> String {
    let family = row.family.map(|family| family.to_string()).unwrap_or_default();
    line([&row.from.to_string(), &row.to.to_string(), &family, row.protocol, &ports(row.ports.as_deref())], state)
}

fn with_outside(row: &list::OutsideConnection, state: RowState) -> String {
    let end = |end: &str| match (&row.prefix, end) {
        (Some(prefix), OUTSIDE) => prefix.clone(),
        (_, end) => end.to_owned(),
    };
    line([&end(&row.from), &end(&row.to), "", row.protocol, &ports(row.ports.as_deref())], state)
}

/// The ports as the rule has them: a name has no number where no pod is meant.
fn with_elsewhere(of: &Elsewhere) -> String {
    let (from, to) = match of.direction {
        Direction::Egress => (of.endpoint.as_str(), of.rule.peer.as_str()),
        Direction::Ingress => (of.rule.peer.as_str(), of.endpoint.as_str()),
    };
    line([from, to, "", "", &of.rule.ports], RowState::Elsewhere)
}

fn line(fields: [&str; 5], state: RowState) -> String {
    let fields = fields.map(field);
    format!("{},{}", fields.join(","), state.as_str())
}

/// A field, in quotes where it has what separates fields or lines.
fn field(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

fn ports(ranges: Option<&[[u16; 2]]>) -> String {
    let range = |[first, last]: &[u16; 2]| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.unwrap_or_default().iter().map(range).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_with_commas_or_quotes_is_quoted() {
        assert_eq!(field("shop/web"), "shop/web");
        assert_eq!(field("app=a,tier=b in namespace shop"), "\"app=a,tier=b in namespace shop\"");
        assert_eq!(field("a \"b\""), "\"a \"\"b\"\"\"");
    }
}
