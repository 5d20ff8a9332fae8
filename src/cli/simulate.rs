//! `tidegate simulate`: the simulators alone.

use std::{net::SocketAddr, process::ExitCode};

use super::{asked_to_stop, failed, runtime};
use crate::simulate::{Ai, Zendesk, ai, zendesk};

/// Options of `tidegate simulate`.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Which one.
    #[arg(value_enum)]
    which: Which,
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the simulated Zendesk sends its webhooks; can be set later by `PUT /sim/target`.
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// The webhooks' secret (`X-API-Key`).
    #[arg(long, value_name = "SECRET", default_value = "simulated-secret")]
    secret: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Which {
    /// Zendesk's conversations: its API, and webhooks for what customers write.
    Zendesk,
    /// An AI service that speaks OpenAI's API (`/v1`), Azure's (`/openai/deployments`) and Anthropic's (`/v1/messages`).
    Ai,
}

pub(super) fn simulate(options: &Options) -> ExitCode {
    let outcome = runtime(0).map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(serve(options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    match options.which {
        Which::Zendesk => {
            let simulated = zendesk::Options {
                webhook_target: options.webhook.clone(),
                webhook_secret: options.secret.clone(),
                ..zendesk::Options::default()
            };
            let zendesk = Zendesk::start(options.listen, simulated).await?;
            let of = zendesk.options();
            println!("simulated Zendesk on {} (app {}, key {}:{})", zendesk.url(), of.app_id, of.key_id, of.key_secret);
            asked_to_stop().await?;
        }
        Which::Ai => {
            let ai = Ai::start(options.listen, ai::Options::default()).await?;
            println!("simulated AI service on {}/v1", ai.url());
            asked_to_stop().await?;
        }
    }
    Ok(())
}
