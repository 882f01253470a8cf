#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::sync::atomic::{AtomicUsize, Ordering};

use npc_cni::configuration::FailurePolicy;

use super::*;

fn run(folder: &Path) -> Run {
    let settings = PluginSettings {
        file: "05-npc.conflist".to_owned(),
        path: folder.join("05-npc.conflist").display().to_string(),
        socket: "/run/npc/cni.sock".to_owned(),
        timeout_seconds: 30,
        failure_policy: FailurePolicy::Closed,
        open_namespaces: Vec::new(),
    };
    let options = InstallOptions {
        conf_dir: folder.to_owned(),
        bin_dir: folder.to_owned(),
        plugin_dirs: Vec::new(),
        cache_dirs: Vec::new(),
        plugin: folder.join("plugin"),
        settings,
        report: None,
        grace: Duration::from_secs(20),
        container: "install-cni".to_owned(),
        node: "n1".to_owned(),
    };
    Run::new(options, Arc::new(|| true))
}

/// What follows from these answers; the last is repeated. `None` never comes.
async fn wish_of(answers: Vec<Option<OwnerAnswer>>) -> Wish {
    let asked = AtomicUsize::new(0);
    let ask: Ask = Box::new(move || {
        let at = asked.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
        let answer = answers[at].clone();
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    });
    run(Path::new("/nowhere")).wish_at_end(&ask).await
}

#[tokio::test(start_paused = true)]
async fn a_refusal_counts_though_the_last_answer_says_nothing() {
    for code in [401, 403] {
        for last in [Some(OwnerAnswer::Unknown("timed out".to_owned())), Some(OwnerAnswer::Refused(503)), None] {
            let mut answers = vec![Some(OwnerAnswer::Refused(code)); 18];
            answers.push(last.clone());
            let wish = wish_of(answers).await;
            assert!(matches!(&wish, Wish::Remove(why) if why.contains(&code.to_string())), "{last:?}: {wish:?}");
        }
    }
    for nothing in [Some(OwnerAnswer::Unknown("timed out".to_owned())), Some(OwnerAnswer::Refused(503)), None] {
        let wish = wish_of(vec![nothing.clone()]).await;
        assert!(matches!(wish, Wish::AskAgain { remove_at_end: false, .. }), "{nothing:?}: {wish:?}");
    }
}
