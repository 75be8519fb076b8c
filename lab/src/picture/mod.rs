//! `supernet plan -o svg|dot|mermaid`: the network of some manifests as a picture.
//!
//! ```text
//!   Topology ──┬─ layout ──▶ scene ──▶ svg      where everything is, by our own rules
//!   (control)  ├─ dot                           what there is; Graphviz places it
//!              └─ mermaid                       the same, for Markdown
//! ```
//!
//! All three say the same, in the words of [`words`]. Whatever a user called things goes through the escape of
//! its format and nowhere else, and the same plan gives the same bytes.

mod dot;
mod layout;
mod mermaid;
mod scene;
mod svg;
mod text;
mod words;

#[cfg(test)]
mod tests;

use crate::output::{self, OutputError};
use supernet_control::analysis::topology::Topology;

/// How a picture is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drawing {
    /// A picture for browsers.
    Svg,
    /// Graphviz.
    Dot,
    /// A flowchart for Markdown.
    Mermaid,
}

/// Prints a picture to standard output.
pub(crate) fn print(topology: &Topology, drawing: Drawing) -> Result<(), OutputError> {
    output::write(&draw(topology, drawing))
}

fn draw(topology: &Topology, drawing: Drawing) -> String {
    match drawing {
        Drawing::Svg => svg::draw(topology),
        Drawing::Dot => dot::draw(topology),
        Drawing::Mermaid => mermaid::draw(topology),
    }
}
