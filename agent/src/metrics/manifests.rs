//! The metrics of a followed directory of manifests.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::count;

/// What a followed directory of manifests counts. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    errors: Gauge,
}

impl Manifests {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "manifest_errors",
            "Errors in the files of --manifests that kept objects or files from being read",
            self.errors.clone(),
        );
    }

    /// So many errors are in the files.
    pub fn errors(&self, errors: usize) {
        self.errors.set(count(errors));
    }
}
