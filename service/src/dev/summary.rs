//! What `dev` tells when it is ready.

use std::io::Write;
use std::path::Path;

/// The facts a user needs to get going.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    pub(super) url: &'a str,
    pub(super) data_dir: &'a Path,
    pub(super) s3_url: &'a str,
    pub(super) s3_access_key: &'a str,
    pub(super) s3_secret_path: &'a Path,
    pub(super) bucket: Option<&'a str>,
    pub(super) local_problem: Option<&'a str>,
}

/// Prints them. Where tokens and secrets are, never what they are.
pub(super) fn print(summary: &Summary<'_>) {
    // Standard output may be closed; the service runs all the same.
    let _closed = std::io::stdout().lock().write_all(text(summary).as_bytes());
}

fn text(summary: &Summary<'_>) -> String {
    let url = summary.url;
    let s3_url = summary.s3_url.trim_end_matches('/');
    let data_dir = summary.data_dir.display();
    let bucket = summary.bucket.unwrap_or("cts");
    let site = match summary.local_problem {
        None => "local (executors on this machine)".to_owned(),
        Some(problem) => format!("none: {problem}"),
    };
    format!(
        "
CDM Task Service is ready.

  service    {url}
  data       {data_dir}
  tokens     {data_dir}/tokens/dev, admin, executor   (all users: {data_dir}/tokens.toml)
  S3         {s3_url}   bucket {bucket}, access key {access_key}
             secret key in {secret}
  runs jobs  {site}
  refdata    {data_dir}/refdata   (staged here; what a staging says: {data_dir}/staging)

Register an image and submit a job:

  admin=\"Authorization: Bearer $(cat '{data_dir}/tokens/admin')\"
  dev=\"Authorization: Bearer $(cat '{data_dir}/tokens/dev')\"
  curl -X POST -H \"$admin\" {url}/admin/images/REGISTRY/IMAGE:TAG
  (inputs need a checksum:  aws s3 cp --checksum-algorithm CRC64NVME --endpoint-url {s3_url} FILE s3://{bucket}/in/FILE)
  curl -H \"$dev\" -H 'Content-Type: application/json' {url}/jobs -d '{{
    \"cluster\": \"local\", \"image\": \"REGISTRY/IMAGE:TAG\", \"memory\": \"1GB\", \"params\": {{\"args\": [\"--help\"]}},
    \"input_files\": [\"{bucket}/in/FILE\"], \"output_dir\": \"{bucket}/out\"}}'
  curl -H \"$dev\" {url}/jobs/JOB_ID/status

Stop with Ctrl-C.

",
        access_key = summary.s3_access_key,
        secret = summary.s3_secret_path.display(),
    )
}
