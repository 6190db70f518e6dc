//! Start-up, shutdown, and the wiring of the parts.

use std::{
    future::{Future, poll_fn},
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
    thread,
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::ServerHandle,
    middleware::from_fn,
    rt::{
        System,
        signal::unix::{Signal, SignalKind, signal},
    },
    web::Data,
};
use clap::Parser;
use clip::{
    Encoder,
    atomic_write::atomic_write,
    folder::{ModelFolder, names},
    onnx::{OnnxEncoder, load_runtime},
};
use terminal::{Context, Exit, Report};

use crate::{
    cli::Cli,
    config::Config,
    http::{Admission, State, observed, routes},
    index::{Indexes, embedded::ModelId},
    infer::{Engine, OpenEncoder, Threads},
    observe::Metrics,
};

/// Seconds that a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Threads for connections, at most: none of them decodes, computes or waits for the disk.
const HTTP_THREADS_MAX: usize = 4;

/// The program: serves until it is asked to stop. `ort_library` is the environment's.
pub fn run(ort_library: Option<PathBuf>) -> Result<Exit, Report> {
    let config = Config::resolve(Cli::parse(), ort_library)?;
    let address = format!("{}:{}", config.host, config.port);
    let listener = TcpListener::bind((config.host.as_str(), config.port))
        .with_context(|| format!("cannot listen on `{address}`"))?;
    let local = listener.local_addr().with_context(|| format!("cannot listen on `{address}`"))?;
    let state = Data::new(open(&config)?);
    let served = serve(&config, Data::clone(&state), listener, local);
    state.stop();
    served.map(|()| Exit::Done)
}

/// Opens the model and the indexes, and starts every thread but those for connections.
fn open(config: &Config) -> Result<State, Report> {
    let refused = || format!("cannot serve `{}`", config.model.display());
    load_runtime(config.ort_library.as_deref())
        .with_context(|| "cannot load ONNX Runtime")
        .hint("`cargo xtask setup` brings it to `tools/lib`; `--ort-lib FILE` or `ORT_DYLIB_PATH` names it")?;
    let folder = ModelFolder::open(&config.model).with_context(refused)?;
    for file in [names::VISION_ONNX, names::TEXT_ONNX] {
        if !config.model.join(file).is_file() {
            return Err(Report::new(refused())
                .cause(format!("`{file}` is missing"))
                .hint("`roclip-export` adds it to a trained model"));
        }
    }
    let sha256 = folder.sha256().with_context(refused)?;
    let metrics = Arc::new(Metrics::new());
    metrics.model(&config.model_name, &sha256);
    let (tokenizer, threads) = (folder.tokenizer.clone(), config.worker_threads);
    let open: OpenEncoder = Arc::new(move || {
        Ok(Box::new(OnnxEncoder::open(&folder, threads)?) as Box<dyn Encoder + Send>)
    });
    let threads = Threads { workers: config.workers, decoders: config.decoders };
    let limits = config.limits.clone();
    let engine = Engine::start(open, tokenizer, threads, &limits, Arc::clone(&metrics))
        .with_context(refused)?;
    let model = ModelId { sha256: sha256.clone(), dim: engine.config().dim };
    let data = config.data.as_deref();
    let indexes = Indexes::open(data, model, &limits, Arc::clone(&metrics))
        .with_context(|| data_refused(data))?;
    Ok(State {
        engine,
        indexes: Arc::new(indexes),
        admission: Admission::new(&limits, Arc::clone(&metrics)),
        limits,
        model_name: config.model_name.clone(),
        model_sha256: sha256,
        metrics,
        stopping: AtomicBool::new(false),
    })
}

fn data_refused(data: Option<&Path>) -> String {
    let data = data.map_or("memory".into(), |folder| format!("`{}`", folder.display()));
    format!("cannot keep indexes in {data}")
}

/// Serves until a signal, then lets the requests in work finish.
fn serve(
    config: &Config,
    state: Data<State>,
    listener: TcpListener,
    local: SocketAddr,
) -> Result<(), Report> {
    System::new().block_on(async move {
        let app_state = Data::clone(&state);
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let server = HttpServer::new(move || {
            App::new().app_data(Data::clone(&app_state)).wrap(from_fn(observed)).configure(routes)
        })
        .workers(cores.min(HTTP_THREADS_MAX))
        .client_request_timeout(HEAD_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .h1_allow_half_closed(false) // a client that left frees its place in the queue
        .shutdown_timeout(config.limits.deadline_s as u64)
        .disable_signals()
        .listen(listener)
        .with_context(|| format!("cannot listen on `{local}`"))?
        .run();
        let mut signals = Signals::new().context("cannot wait for signals")?;
        let handle = server.handle();
        let serving = actix_web::rt::spawn(server);
        if let Some(file) = &config.port_file {
            atomic_write(file, format!("{}\n", local.port()).as_bytes())?;
        }
        terminal::println_result(format!("listening on http://{local}"))?;
        signals.next().await;
        state.begin_to_stop();
        stopped(serving, handle, signals).await
    })
}

/// Waits until the last request is answered; a second signal hangs up on those that still wait.
async fn stopped(
    serving: impl Future<Output = Result<io::Result<()>, impl Sized>>,
    handle: ServerHandle,
    mut signals: Signals,
) -> Result<(), Report> {
    actix_web::rt::spawn(handle.stop(true));
    let (mut serving, mut again) = (pin!(serving), pin!(signals.next()));
    let ended = poll_fn(|context| match serving.as_mut().poll(context) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending => again.as_mut().poll(context).map(|()| None),
    });
    match ended.await {
        Some(Ok(Err(error))) => Err(Report::from(error)),
        Some(Err(_)) => Err(Report::new("the server did not end as it should")),
        Some(Ok(Ok(()))) | None => Ok(()),
    }
}

/// Interrupt and terminate.
struct Signals([Signal; 2]);

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]))
    }

    async fn next(&mut self) {
        poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
