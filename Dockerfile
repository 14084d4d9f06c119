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

# The dependencies: a layer of its own, which changes with Cargo.toml and Cargo.lock only.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches examples/faults \
    && touch src/lib.rs benches/placement.rs benches/replication.rs \
    && echo 'fn main() {}' | tee src/main.rs >examples/faults/main.rs \
    && cargo build --locked --profile "$PROFILE" --bin jumpgate

COPY src src
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --profile "$PROFILE" --bin jumpgate \
    && case "$PROFILE" in dev) folder=debug ;; *) folder=$PROFILE ;; esac \
    && mkdir -p /image/usr/local/bin /image/etc/jumpgate /image/run/jumpgate /image/tmp \
    && strip -o /image/usr/local/bin/jumpgate "target/$folder/jumpgate" \
    && ldd /image/usr/local/bin/jumpgate | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} /image \
    && echo 'jumpgate:x:65532:65532::/:/nonexistent' >/image/etc/passwd \
    && echo 'jumpgate:x:65532:' >/image/etc/group \
    && echo 'hosts: files dns' >/image/etc/nsswitch.conf \
    && chown 65532:65532 /image/run/jumpgate && chmod 700 /image/run/jumpgate && chmod 1777 /image/tmp

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
