# The tutorial as a person types it on a fresh Debian host, but for the pinned version: the newest
# MLflow is not the one that is compared. Ends as `mlflow server`; arguments are its options.
set -eu
export DEBIAN_FRONTEND=noninteractive
cd "$HOME"
apt update
apt install --yes python3-pip python3-venv
python3 -m venv mlflow
. mlflow/bin/activate
pip install "mlflow==$MLFLOW_VERSION" boto3 psycopg2-binary
# `aws configure` writes this.
mkdir -p .aws
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' AKIAEXAMPLE example >.aws/credentials
printf '[default]\nregion = eu-central-1\n' >.aws/config
exec mlflow server -h 0.0.0.0 -p 5000 "$@"
