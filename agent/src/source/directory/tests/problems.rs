//! What is wrong with the files now, beside what has come new.

use super::*;

#[tokio::test]
async fn all_problems_that_there_are_come_with_each_update_and_their_end_is_one() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    let kind = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyy\nmetadata: {name: deny}\n";
    followed.write("c.yaml", kind);
    let standing = async |followed: &mut Followed| {
        let update = tokio::time::timeout(LONG, followed.updates.next()).await.expect("no update came").unwrap();
        let names = update.standing.iter().map(|problem| problem.file.rsplit('/').next().unwrap().to_owned());
        (update.loaded.is_some(), update.problems.len(), names.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(standing(&mut followed).await, (false, 1, "c.yaml".to_owned()));
    followed.write("b.yaml", &pod("b", "2"));
    assert_eq!(standing(&mut followed).await, (true, 0, "c.yaml".to_owned()));
    followed.write("b.yaml", "b: {\n");
    assert_eq!(standing(&mut followed).await, (false, 1, "b.yaml c.yaml".to_owned()));
    // Nothing else is different when one goes.
    fs::remove_file(followed.root().join("c.yaml")).unwrap();
    assert_eq!(standing(&mut followed).await, (false, 0, "b.yaml".to_owned()));
    followed.write("b.yaml", &pod("b", "2"));
    assert_eq!(standing(&mut followed).await, (false, 0, String::new()));
}
