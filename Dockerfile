# Static programs in empty images: `docker build --target proxy .` and `--target operator`.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends musl-tools make cmake \
 && rm -rf /var/lib/apt/lists/*
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" \
 && cargo build --locked --release --target "$target" --package postern-proxy --package postern-operator \
 && mkdir /out \
 && cp "target/$target/release/postern-proxy" "target/$target/release/postern-operator" /out/ \
 && mkdir /out/state

# Roots of public CAs are compiled in, and nothing is written but to volumes.
FROM scratch AS proxy
COPY --from=build /out/postern-proxy /postern-proxy
# Where compose files of Tailscale's container mount their volume: a new one gets its owner from here.
COPY --from=build --chown=65532:65532 /out/state /var/lib/tailscale
USER 65532:65532
ENTRYPOINT ["/postern-proxy"]
CMD ["run"]

FROM scratch AS operator
COPY --from=build /out/postern-operator /postern-operator
USER 65532:65532
ENTRYPOINT ["/postern-operator"]
