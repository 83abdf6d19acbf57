# syntax=docker/dockerfile:1.7

# Metaflow's published metadata service and UI, changed to run as a non-root user and to write only under /tmp. Its code
# is under /root. No digest is pinned: pass that of the image with --build-arg.
#   docker build -f infra/images/metaflow.Dockerfile -t REGISTRY/progdistill:metaflow-2.5.1 infra/images
ARG METAFLOW_SERVICE_IMAGE=docker.io/netflixoss/metaflow_metadata_service:v2.5.1

FROM ${METAFLOW_SERVICE_IMAGE}
RUN chmod -R a+rX /root
# The backend finds the pages beside the code, so use the code under /root, not the installed copy.
ENV PYTHONPATH=/root PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /tmp
USER 1000:1000
