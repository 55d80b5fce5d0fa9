//! `params`: mount points, arguments, environment.

use indexmap::IndexMap;
use serde_json::Value;

use super::rules::{ARGUMENT, FLAG, MANIFEST_HEADER, MOUNT_POINT, VARIABLE_NAME};
use super::{
    Argument, EnvironmentValue, InputFilesFormat, Parameter, ParameterKind, Parameters,
    default_input_mount_point, default_output_mount_point,
};
use crate::unicode;
use crate::validation::scalars::{TextRule, boolean, word};
use crate::validation::{Checked, Fault, Faults, Members, Reading, any_of, list};

/// The existing service's names of the ways to read an argument or a variable's value.
const AS_TEXT: &str = "constrained-str";
const AS_ARGUMENT_PARAMETER: &str = "function-after[_check_fields(), ParameterWithFlag]";
const AS_VARIABLE_PARAMETER: &str = "function-after[_check_fields(), Parameter]";

/// Checks `params`.
pub(super) fn parameters(value: &Value) -> Checked<Parameters> {
    let mut members = Members::of(value)?;
    let mount_point = |value: &Value| MOUNT_POINT.check(value);
    let input_mount_point = members.defaulted(
        "input_mount_point",
        default_input_mount_point(),
        mount_point,
    );
    let output_mount_point = members.defaulted(
        "output_mount_point",
        default_output_mount_point(),
        mount_point,
    );
    let declobber = members.defaulted("declobber", false, boolean);
    let refdata_mount_point = members.optional("refdata_mount_point", mount_point);
    let args = members.optional("args", |value| list(value, argument));
    let environment = members.optional("environment", environment);
    let faults = members.finish();
    let (
        true,
        Some(input_mount_point),
        Some(output_mount_point),
        Some(declobber),
        Some(refdata_mount_point),
        Some(args),
        Some(environment),
    ) = (
        faults.is_empty(),
        input_mount_point,
        output_mount_point,
        declobber,
        refdata_mount_point,
        args,
        environment,
    )
    else {
        return Err(faults);
    };
    let parameters = Parameters {
        input_mount_point,
        output_mount_point,
        declobber,
        refdata_mount_point,
        args,
        environment,
    };
    match rule_across_parameters(&parameters) {
        None => Ok(parameters),
        Some(message) => Err(Fault::new("value_error", value, message).into()),
    }
}

/// What is wrong with the parameters taken together.
fn rule_across_parameters(parameters: &Parameters) -> Option<&'static str> {
    if parameters
        .all()
        .filter(|parameter| parameter.carries_files())
        .count()
        > 1
    {
        return Some("give only one parameter of type input_files or manifest_file");
    }
    let not_one_value = parameters.in_environment().any(|parameter| {
        parameter.kind == ParameterKind::InputFiles
            && parameter.input_files_format != Some(InputFilesFormat::CommaSeparatedList)
    });
    not_one_value.then_some(
        "give input_files in the environment the input_files_format comma_separated_list",
    )
}

fn argument(value: &Value) -> Checked<Argument> {
    let text = |rule: &TextRule, value: &Value| rule.check(value).map(Argument::Literal);
    any_of(
        value,
        &[
            Reading {
                name: AS_TEXT,
                check: &|value| text(&ARGUMENT, value),
            },
            Reading {
                name: AS_TEXT,
                check: &|value| text(&FLAG, value),
            },
            Reading {
                name: AS_ARGUMENT_PARAMETER,
                check: &|value| parameter(value, Place::Argument).map(Argument::Parameter),
            },
        ],
    )
}

fn environment(value: &Value) -> Checked<IndexMap<String, EnvironmentValue>> {
    let Value::Object(variables) = value else {
        return Err(Fault::new("dict_type", value, "give a JSON object").into());
    };
    let mut faults = Faults::default();
    let mut checked = IndexMap::with_capacity(variables.len());
    for (name, value) in variables {
        let checked_name = VARIABLE_NAME
            .check(&Value::from(name.as_str()))
            .map_err(|faults| faults.under_reading("[key]").under_member(name));
        let checked_value = environment_value(value).map_err(|faults| faults.under_member(name));
        if let (Some(name), Some(value)) =
            (faults.collect(checked_name), faults.collect(checked_value))
        {
            checked.insert(name, value);
        }
    }
    if faults.is_empty() {
        Ok(checked)
    } else {
        Err(faults)
    }
}

fn environment_value(value: &Value) -> Checked<EnvironmentValue> {
    any_of(
        value,
        &[
            Reading {
                name: AS_TEXT,
                check: &|value| ARGUMENT.check(value).map(EnvironmentValue::Literal),
            },
            Reading {
                name: AS_VARIABLE_PARAMETER,
                check: &|value| parameter(value, Place::Variable).map(EnvironmentValue::Parameter),
            },
        ],
    )
}

/// Where a parameter stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Argument,
    Variable,
}

fn parameter(value: &Value, place: Place) -> Checked<Parameter> {
    let mut members = Members::of(value)?;
    let kind = members.required("type", |value| {
        word(value, "input_files, manifest_file, container_number")
    });
    let input_files_format = members.optional("input_files_format", |value| {
        word(
            value,
            "comma_separated_list, space_separated_list, repeat_parameter",
        )
    });
    let manifest_file_format = members.optional("manifest_file_format", |value| {
        word(value, "files, data_ids")
    });
    let manifest_file_header = members.optional("manifest_file_header", manifest_header);
    let container_num_prefix =
        members.optional("container_num_prefix", |value| ARGUMENT.check(value));
    let container_num_suffix =
        members.optional("container_num_suffix", |value| ARGUMENT.check(value));
    let flag = match place {
        Place::Argument => members.optional("flag", |value| FLAG.check(value)),
        Place::Variable => Some(None),
    };
    let faults = members.finish();
    let (
        true,
        Some(kind),
        Some(input_files_format),
        Some(manifest_file_format),
        Some(manifest_file_header),
        Some(container_num_prefix),
        Some(container_num_suffix),
        Some(flag),
    ) = (
        faults.is_empty(),
        kind,
        input_files_format,
        manifest_file_format,
        manifest_file_header,
        container_num_prefix,
        container_num_suffix,
        flag,
    )
    else {
        return Err(faults);
    };
    let parameter = Parameter {
        kind,
        input_files_format,
        manifest_file_format,
        manifest_file_header,
        container_num_prefix,
        container_num_suffix,
        flag,
    };
    match rule_across_members(&parameter, place) {
        None => Ok(parameter),
        Some(message) => Err(Fault::new("value_error", value, message).into()),
    }
}

/// What is wrong with the members of a parameter taken together.
///
/// The existing service does not ask for the formats in arguments; such jobs die in the executor
/// (decisions.md, row 4).
fn rule_across_members(parameter: &Parameter, place: Place) -> Option<&'static str> {
    let repeats = parameter.input_files_format == Some(InputFilesFormat::RepeatParameter);
    match parameter.kind {
        ParameterKind::InputFiles if parameter.input_files_format.is_none() => {
            Some("give input_files_format: how several files are written")
        }
        ParameterKind::ManifestFile if parameter.manifest_file_format.is_none() => {
            Some("give manifest_file_format: what the lines of the manifest file hold")
        }
        ParameterKind::InputFiles
            if repeats && place == Place::Argument && parameter.flag.is_none() =>
        {
            Some("give flag: repeat_parameter writes it before each file")
        }
        _ => None,
    }
}

fn manifest_header(value: &Value) -> Checked<String> {
    let header = MANIFEST_HEADER.check(value)?;
    if header.contains(|c| c != '\t' && unicode::is_control(c)) {
        let message = "give a header without control characters; only tabs are allowed";
        return Err(Fault::new("value_error", value, message).into());
    }
    Ok(header)
}
