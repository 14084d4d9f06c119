# The image of one node: `docker build -t jumpgate .`. It builds with BuildKit and with the classic builder.
#
# What remains is the program and the few libraries that it is linked with: no shell, no package manager, no root.
#
#   BUILDER_IMAGE   a Debian with Rust and a C compiler
#   RUNTIME_IMAGE   what the program is put into; it brings its libraries itself, so nothing is enough
#   PROFILE         the profile of cargo: release, or dev, which builds much faster and runs slower
ARG BUILDER_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=scratch

FROM ${BUILDER_IMAGE} AS build
ARG PROFILE=release
ENV CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never
WORKDIR /build

# The dependencies: a layer of its own, which changes with Cargo.toml and Cargo.lock only. Benchmarks and examples aren't
# built, so that their sources need not be here.
COPY Cargo.toml Cargo.lock ./
RUN awk '/^\[/ { skip = /^\[\[(bench|example)\]\]/ } !skip' Cargo.toml >without && mv without Cargo.toml \
    && mkdir -p src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs \
    && cargo build --locked --profile "$PROFILE" --bin jumpgate

COPY src src
COPY deploy/image-root.sh deploy/image-root.sh
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --profile "$PROFILE" --bin jumpgate \
    && case "$PROFILE" in dev) folder=debug ;; *) folder=$PROFILE ;; esac \
    && bash deploy/image-root.sh "target/$folder/jumpgate" /image

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="jumpgate" \
      org.opencontainers.image.description="A distributed in-memory key-value datastore" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
COPY --from=build /image /
ENV PATH=/usr/local/bin
USER 65532:65532
# HTTP; pulse is UDP; stream is TCP.
EXPOSE 7501/tcp 8501/udp 9501/tcp
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/jumpgate", "health", "--url", "http://127.0.0.1:7501", "--timeout", "2s"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/jumpgate"]
CMD ["serve", "--config", "/etc/jumpgate/cluster.toml"]
