# The page, or any other command, on a CPU:
#   docker build -t assistant-builder .
#   docker run --rm -it -p 127.0.0.1:7860:7860 -v assistant-builder:/data assistant-builder
#   docker run --rm -v assistant-builder:/data -v "$PWD":/work assistant-builder data check /work/support.csv
FROM python:3.12-slim

WORKDIR /opt/assistant-builder
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY assistant_builder assistant_builder
COPY evals evals
COPY datasets_cards datasets_cards
# PyTorch without CUDA
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt '.[documents,gguf]' \
 && useradd --uid 1000 --create-home assistant && mkdir /data && chown 1000 /data

USER 1000
WORKDIR /data
ENV ASSISTANT_BUILDER_HOME=/data
VOLUME /data
EXPOSE 7860
ENTRYPOINT ["assistant-builder"]
CMD ["app", "--host", "0.0.0.0", "--auth", "admin"]
