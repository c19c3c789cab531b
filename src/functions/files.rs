//! temp
use crate::error::Result;
use std::path::{Path, PathBuf};
/// R
#[derive(Debug, Clone)]
pub struct Roots;
impl Roots {
    /// n
    pub fn new(_s: &str, _w: Option<&Path>, _a: &[PathBuf]) -> Result<Self> {
        Ok(Self)
    }
    /// p
    pub fn permit(&self, uri: &str) -> Result<String> {
        Ok(uri.to_owned())
    }
    /// w
    pub fn permit_write(&self, uri: &str) -> Result<String> {
        Ok(uri.to_owned())
    }
}
