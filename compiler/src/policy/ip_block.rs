//! Reads an ipBlock: the addresses of its `cidr` without those of each `except`.

use k8s_openapi::api::networking::v1 as api;

use super::finding::{Effect, FindingCode};
use super::read::Reader;
use super::{Block, IpBlock};
use crate::algebra::cidr::Cidr;
use crate::algebra::ranges::RangeSet;

impl Reader<'_> {
    /// Reads an ipBlock; none where a part of it is not understood.
    pub(super) fn ip_block(&mut self, path: &str, block: &api::IPBlock) -> Option<IpBlock> {
        let cidr = self.cidr(format!("{path}.cidr"), &block.cidr);
        // An exception that is not understood must not let its addresses in,
        // so it takes the whole peer with it. All are read, to report all.
        let mut excepts = Vec::new();
        let mut understood = true;
        for (i, text) in block.except.iter().flatten().enumerate() {
            match self.cidr(format!("{path}.except[{i}]"), text) {
                Some(except) => excepts.push((i, except)),
                None => understood = false,
            }
        }
        let cidr = cidr?;
        for (i, except) in &excepts {
            let is_inside = except.family == cidr.family && cidr.first <= except.first && except.last <= cidr.last;
            let (text, of) = (except.network(), cidr.network());
            let path = format!("{path}.except[{i}]");
            if except.family == cidr.family && except.first <= cidr.first && cidr.last <= except.last {
                self.report(
                    path,
                    FindingCode::ExceptCoversCidr,
                    format!("{text} leaves nothing of {of}"),
                    Effect::MatchesNothing,
                );
            } else if !is_inside {
                self.report(
                    path,
                    FindingCode::ExceptOutsideCidr,
                    format!("{text} is not inside {of}"),
                    Effect::Ignored,
                );
            }
        }
        if !understood {
            return None;
        }
        let excepts: Vec<Cidr> = excepts.into_iter().map(|(_, except)| except).collect();
        let cut = excepts.iter().filter(|except| except.family == cidr.family);
        let cut = RangeSet::from_ranges(cut.map(|except| (except.first, except.last)));
        let block = Block { family: cidr.family, addresses: cidr.addresses().difference(&cut) };
        Some(IpBlock { cidr, except: excepts, block })
    }

    fn cidr(&mut self, path: String, text: &str) -> Option<Cidr> {
        if text.is_empty() {
            let problem = "cidr is missing: an ipBlock needs a prefix, such as 10.0.0.0/8".to_owned();
            let problem = if path.strip_suffix(".cidr").is_some() { problem } else { "the prefix is empty".to_owned() };
            self.report(path, FindingCode::CidrInvalid, problem, Effect::MatchesNothing);
            return None;
        }
        match Cidr::parse(text) {
            Ok(cidr) => {
                let canonical = cidr.network().to_string();
                let length = text.split_once('/').map_or("", |(_, length)| length);
                let has_zeros = length.len() > 1 && length.starts_with('0');
                if text != canonical && (has_zeros || text.parse() != Ok(cidr.network())) {
                    self.report(
                        path,
                        FindingCode::CidrLegacy,
                        format!("\"{text}\" means {canonical}; write that"),
                        Effect::Works,
                    );
                }
                Some(cidr)
            }
            Err(problem) => {
                let address = text.split('/').next().and_then(|text| text.trim().parse().ok());
                let problem = format!("\"{text}\" is no prefix: {problem}");
                self.report_address(path, FindingCode::CidrInvalid, problem, Effect::MatchesNothing, address);
                None
            }
        }
    }
}
