//! Everything that is wrong with a configuration, told at once.

/// Collected complaints, one line each.
#[derive(Debug, Default)]
pub struct Problems {
    lines: Vec<String>,
}

impl Problems {
    /// Complains unless `holds`: "`key` must be `limits`".
    pub fn require(&mut self, holds: bool, key: &str, limits: &str) {
        if !holds {
            self.lines.push(format!("`{key}` must be {limits}"));
        }
    }

    /// Complains.
    pub fn add(&mut self, line: String) {
        self.lines.push(line);
    }

    /// The complaints in the order in which they were made.
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}
