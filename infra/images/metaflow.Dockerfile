# syntax=docker/dockerfile:1.7

# Metaflow's metadata service and UI as published, made to run as a user that is not root and without writing beside
# /tmp. Its code lies under /root; no digest is known here: give the image's own with --build-arg.
#   docker build -f infra/images/metaflow.Dockerfile -t REGISTRY/progdistill:metaflow-2.5.0 infra/images
ARG METAFLOW_SERVICE_IMAGE=docker.io/netflixoss/metaflow_metadata_service:v2.5.0

FROM ${METAFLOW_SERVICE_IMAGE}
RUN chmod -R a+rX /root
# The pages are found beside the code, so the code under /root is taken and not the installed copy.
ENV PYTHONPATH=/root PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /tmp
USER 1000:1000
