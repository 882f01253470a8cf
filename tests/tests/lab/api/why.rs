//! `npc why` on a node: what its kernel holds, and the policies of the API server.

use npc_tests::lab::Enforcer;
use serde_json::Value;

use super::small::{NODE, Small};

/// What `npc why` answers on the node about a thing.
fn why(small: &Small, thing: &str) -> Value {
    let Some(Enforcer::Agent(npc)) = Enforcer::for_test() else { panic!("the lab has an agent") };
    let kubeconfig = small.lab.folder().join("kubeconfig");
    let words = [npc.to_str().unwrap(), "why", thing, "-o", "json", "--kubeconfig", kubeconfig.to_str().unwrap()];
    let told = small.lab.node(NODE).unwrap().exec(words, "").unwrap();
    serde_json::from_str(&told).unwrap()
}

/// The rules of the node's kernel that bear the policy's name.
fn rules(small: &Small) -> Vec<String> {
    let saved = small.lab.node(NODE).unwrap().exec(["iptables-nft-save"], "").unwrap();
    saved.lines().filter(|line| line.contains("shop/api")).map(str::to_owned).collect()
}

#[test]
fn each_rule_with_the_policys_name_is_explained_by_the_kernel_and_the_api_server() {
    let Some(mut small) = Small::start() else { return };
    for admitted in ["web", "other"] {
        if admitted != "web" {
            small.admit(admitted);
        }
        let rules = rules(&small);
        assert_eq!(rules.len(), 2, "one that admits and one that denies: {rules:#?}");
        for (number, rule) in (1..).zip(&rules) {
            let told = why(&small, rule);
            assert_eq!((&told["basis"], &told["node"]), (&"kernel".into(), &NODE.into()), "{told}");
            assert_eq!((&told["held"], &told["wanted"]), (&true.into(), &true.into()), "{told}");
            assert_eq!(told["judges"][0]["endpoint"], "shop/api", "{told}");
            assert_eq!(told["policies"][0]["policy"], "shop/api", "{told}");
            assert!(told["rules"][0]["number"].as_u64() >= Some(number), "{told}");
        }
        let told = why(&small, &rules[0]);
        assert_eq!(
            told["rules"][0]["means"],
            format!("everything from pods app={admitted} of namespace shop"),
            "{told}"
        );
        assert_eq!(told["rules"][0]["origins"][0]["path"], "spec.ingress[0]", "{told}");
    }
    // The dispatch tree depends on the node's secret, which the kernel keeps.
    for thing in ["NPC-INGRESS", "npc4-ingress", "-A FORWARD -j NPC-FORWARD"] {
        let told = why(&small, thing);
        assert_eq!((&told["held"], &told["wanted"]), (&true.into(), &true.into()), "{told}");
    }
}
