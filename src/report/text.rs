//! The text renderer.

/// A value that people read.
pub trait Text {
    /// Lines, each with its newline.
    fn text(&self) -> String;
}
