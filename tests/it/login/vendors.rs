//! The recipes for Keycloak, Entra ID and Cloudflare Access in docs/recipes, with stand-ins for the signers.

use serde_json::{Value, json};

use crate::kit::app::{App, AppOptions};
use crate::kit::client::RequestBuilder;
use crate::kit::gate::Gate;
use crate::kit::issuer::{Publisher, Signer, now};
use crate::kit::oidc::OidcStage;
use crate::kit::oidc::provider::{CLIENT, Provider};
use crate::kit::stage::{Stage, until};
use crate::kit::vodia::{Options, Tenant, Vodia};

/// A gate as a recipe says, but for where everything is.
struct RecipeGate {
    scene: OidcStage,
    signer: Signer,
    /// The recipe, as it is shown.
    text: String,
}

/// Replaces what a recipe must say.
fn put(text: &str, shown: &str, real: &str) -> String {
    assert!(text.contains(shown), "the recipe no longer says {shown}");
    text.replace(shown, real)
}

impl RecipeGate {
    async fn open(name: &str) -> Self {
        let page = std::fs::read_to_string(format!("docs/recipes/{name}.md")).unwrap();
        let text = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
        let tenants = vec![Tenant::with_alice_and_bob("acme.example.com")];
        let pbx = Vodia::start(Options { tenants, ..Options::default() }).await;
        let app = App::start(AppOptions::default()).await;
        let (provider, signer) = (Provider::start().await, Signer::rsa());
        let publisher = Publisher::start(&[signer.jwk("a")]).await;
        let mut real = text.lines().skip_while(|line| !line.starts_with('[')).collect::<Vec<_>>().join("\n");
        for (shown, here) in [
            ("http://127.0.0.1:3000", format!("http://{}", app.addr)),
            ("http://127.0.0.1:8080", format!("http://{}", pbx.addr)),
            ("{ file = \"/etc/callgate/pbx-admin\" }", "{ env = \"PBX_ADMIN\" }".to_owned()),
            ("portal.example.com", "app.test".to_owned()),
            ("pbx.example.com", "pbx.test".to_owned()),
            ("preset ", format!("jwks = \"{}\"\npreset ", publisher.url())),
        ] {
            real = put(&real, shown, &here);
        }
        if real.contains("\"oidc\"") {
            real = put(&real, "{ file = \"/etc/callgate/oidc-secret\" }", "{ env = \"OIDC_SECRET\" }");
            for (key, here) in [("issuer ", provider.issuer()), ("client_id ", CLIENT.to_owned())] {
                let shown = real.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
                real = put(&real, &shown, &format!("{key} = \"{here}\""));
            }
        }
        real.push_str("\n[limits]\nclient = \"1000/min\"\nfailures = \"1000/min\"\n");
        let gate = Gate::start(&real).await;
        gate.canary(crate::kit::oidc::SECRET);
        until("the keys are fetched", || gate.told("/readyz").contains("200 OK")).await;
        // They are not asked for again before a minute is over.
        drop(publisher);
        Self { scene: OidcStage { stage: Stage { gate, app, pbx }, provider }, signer, text }
    }

    /// Returns the value of a key of the recipe.
    fn value(&self, key: &str) -> &str {
        let line = self.text.lines().find(|line| line.split(' ').next() == Some(key));
        line.unwrap_or_else(|| panic!("the recipe has no {key}")).split('"').nth(1).unwrap()
    }

    /// Signs claims for the audience of the recipe.
    fn token(&self, issuer: &str, changes: &Value) -> String {
        let mut claims = json!({
            "iss": issuer, "aud": self.value("audience"), "sub": "ann", "oid": "ann", "iat": now(), "exp": now() + 300,
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.signer.named("a", &claims)
    }

    fn post(&self) -> RequestBuilder<'_> {
        self.scene.stage.gate.post("/auth/pbx", "application/json", "{}")
    }

    /// Shows tokens in a field: one of the recipe's issuer for alice, then invalid ones.
    async fn try_tokens(&self, issuer: &str, field: &str, alice: &Value) {
        let lead = if field == "authorization" { "Bearer " } else { "" };
        let ask = |token: String| {
            self.scene.stage.gate.canary(&token);
            self.post().header(field, &format!("{lead}{token}")).send()
        };
        let before = self.scene.stage.minted().len();
        ask(self.token(issuer, alice)).await.expect(200);
        for (name, value) in
            [("iss", json!("https://id.evil.test")), ("aud", json!("another")), ("exp", json!(now() - 60))]
        {
            let mut claims = alice.clone();
            claims[name] = value;
            ask(self.token(issuer, &claims)).await.expect(401);
        }
        let forged =
            Signer::rsa().named("a", &json!({ "iss": issuer, "aud": self.value("audience"), "exp": now() + 60 }));
        ask(forged).await.expect(401);
        // A caller without the claim that the rule needs.
        ask(self.token(issuer, &json!({}))).await.expect(403);
        self.post().send().await.expect(401);
        assert_eq!(self.scene.stage.minted()[before..], ["40@acme.example.com"]);
    }

    /// Logs a person in at the provider, and opens the PBX.
    async fn try_login(&self, claims: Value) {
        self.scene.provider.set(|says| says.claims = claims);
        let cookie = self.scene.cookie().await;
        self.scene.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303);
        assert_eq!(self.scene.stage.minted(), ["40@acme.example.com"]);
    }
}

#[tokio::test]
async fn the_recipe_for_keycloak_logs_in_people_and_tokens() {
    let kitchen = RecipeGate::open("keycloak").await;
    assert_eq!(kitchen.value("issuer"), kitchen.value("realm"));
    kitchen.try_login(json!({ "extension": "40" })).await;
    let alice = json!({ "extension": "40", "typ": "Bearer" });
    kitchen.try_tokens(kitchen.value("realm"), "authorization", &alice).await;
}

#[tokio::test]
async fn the_recipe_for_entra_id_logs_in_people_and_tokens() {
    let kitchen = RecipeGate::open("entra").await;
    let issuer = format!("https://login.microsoftonline.com/{}/v2.0", kitchen.value("tenant"));
    assert_eq!((kitchen.value("issuer"), kitchen.value("client_id")), (&*issuer, kitchen.value("audience")));
    let alice = json!({ "extn": { "extension": "40" }, "ver": "2.0" });
    kitchen.try_login(alice.clone()).await;
    kitchen.try_tokens(&issuer, "authorization", &alice).await;
}

#[tokio::test]
async fn the_recipe_for_cloudflare_access_logs_in_the_caller_it_vouches_for() {
    let kitchen = RecipeGate::open("cloudflare-access").await;
    let issuer = format!("https://{}.cloudflareaccess.com", kitchen.value("team"));
    let alice = json!({ "email": "40@example.com", "type": "app" });
    kitchen.try_tokens(&issuer, "cf-access-jwt-assertion", &alice).await;
    let stranger = kitchen.token(&issuer, &json!({ "email": "40@elsewhere.test" }));
    kitchen.scene.stage.gate.canary(&stranger);
    kitchen.post().header("cf-access-jwt-assertion", &stranger).send().await.expect(403);
}
